"""The options that an engine gets on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage.common.components.sage_vllm.fit.cpu_defaults import available_memory, cpu_defaults
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model


@pytest.fixture(autouse=True)
def no_setting_of_vllms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)


def test_the_kv_cache_is_what_a_full_batch_can_fill(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, hidden_size=64, layers=2, heads=2, context=512)
    per_token = 2 * 4 * 2 * 64  # keys and values, float32, layers, heads x head size
    whole = cpu_defaults(tmp_path, {})["kv_cache_memory_bytes"]
    assert whole == 256 * (512 + 128) * per_token
    less = cpu_defaults(tmp_path, {"max_model_len": 128, "max_num_seqs": 4})
    assert less["kv_cache_memory_bytes"] == 4 * (128 + 128) * per_token


def test_the_kv_cache_leaves_most_of_the_memory_free(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "something else"}')
    size = cpu_defaults(tmp_path, {})["kv_cache_memory_bytes"]
    assert 0 < size <= 4 << 30
    assert size <= available_memory() // 3  # a quarter, of what was free a moment ago


def test_a_model_without_a_configuration_of_this_kind_is_left_to_vllm(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text("{}")
    assert 0 < cpu_defaults(tmp_path, {})["kv_cache_memory_bytes"] <= 4 << 30


def test_vllms_own_setting_is_left_to_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    assert "kv_cache_memory_bytes" not in cpu_defaults(tmp_path, {})


def test_the_dtype_is_never_float16_which_processors_emulate(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    flags = Path("/proc/cpuinfo").read_text()
    fast = "avx512f" in flags or " bf16" in flags
    assert cpu_defaults(tmp_path, {})["dtype"] == ("bfloat16" if fast else "float32")
