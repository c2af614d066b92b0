"""What an engine gets on a CPU where nobody says otherwise: its KV cache and its context.

The models are real ones by their shapes: their configurations, and headers of weights of their
size over files that are holes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fit_models import write_shape

from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.planning.device import Device
from sage.common.components.sage_vllm.planning.engine_plan import EnginePlan, plan_engine
from sage.common.components.sage_vllm.testing import write_tiny_model

GIB = 1 << 30
CPU = Device(kind="cpu", free=64 * GIB, total=64 * GIB, dtype="float32")


def plan(path: Path, device: Device = CPU, *, role: Any = "generate", **options: Any) -> EnginePlan:
    return plan_engine(EngineSpec(model_id="t/m", path=path, role=role, arguments=options), device)


def options(path: Path, device: Device = CPU, **asked: Any) -> Mapping[str, Any]:
    return plan(path, device, **asked).spec.arguments


# -- the KV cache ----------------------------------------------------------------------------------


def test_the_kv_cache_is_what_a_full_batch_can_fill(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, hidden_size=64, layers=2, heads=2, context=512)
    per_token = 2 * 4 * 2 * 64  # keys and values, float32, layers, heads x head size
    assert options(tmp_path)["kv_cache_memory_bytes"] == 256 * (512 + 128) * per_token
    less = options(tmp_path, max_model_len=128, max_num_seqs=4)
    assert less["kv_cache_memory_bytes"] == 4 * (128 + 128) * per_token


def test_the_kv_cache_leaves_most_of_the_memory_free(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "something else"}')
    assert options(tmp_path)["kv_cache_memory_bytes"] == 4 * GIB
    half = replace(CPU, free=8 * GIB)
    assert options(tmp_path, half)["kv_cache_memory_bytes"] == 2 * GIB


def test_a_model_without_a_configuration_of_this_kind_is_left_to_vllm(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "params.json").write_text("{}")
    asked = options(tmp_path)
    assert asked["kv_cache_memory_bytes"] == 4 * GIB
    assert "max_model_len" not in asked  # of an unknown one, vLLM cannot tell what fits


def test_a_cache_of_another_kind_is_fitted_by_vllm(tmp_path: Path) -> None:
    write_shape(tmp_path, "llama-3.2-1b")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "is_encoder_decoder": True}))
    assert options(tmp_path)["max_model_len"] == -1  # whatever fits


def test_vllms_own_setting_is_left_to_vllm(tmp_path: Path) -> None:
    write_shape(tmp_path, "qwen3-0.6b")
    device = replace(CPU, kv_cache_bytes=2 * GIB, dtype="bfloat16")
    planned = plan(tmp_path, device)
    assert "kv_cache_memory_bytes" not in planned.spec.arguments
    assert planned.estimate.max_model_len == 18_688 - 128  # 2 GiB, but for a block


def test_what_the_user_sets_is_kept(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    asked = {"enforce_eager": False, "dtype": "bfloat16", "kv_cache_memory_bytes": 64 << 20}
    assert options(tmp_path, **asked) == asked


# -- the context -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "role", "dtype", "length", "of"),
    [
        ("qwen3-0.6b", "generate", "bfloat16", 37_376 - 128, 40_960),
        ("qwen3-0.6b", "generate", "float32", 18_688 - 128, 40_960),
        ("qwen3-4b", "generate", "bfloat16", 29_056 - 128, 40_960),
        ("qwen3-4b", "generate", "float32", 14_464 - 128, 40_960),
        ("smollm3", "generate", "bfloat16", 58_240 - 128, 65_536),
        ("smollm3", "generate", "float32", 29_056 - 128, 65_536),
        ("llama-3.2-1b", "generate", "bfloat16", 131_072 - 128, 131_072),
        ("llama-3.2-1b", "generate", "float32", 65_536 - 128, 131_072),
        ("qwen3-embedding-0.6b", "embed", "float32", 18_688 - 128, 32_768),
        ("qwen3-embedding-0.6b", "embed", "bfloat16", 32_768, 32_768),
    ],
)
def test_what_people_start_without_options_starts(
    tmp_path: Path, shape: str, role: str, dtype: str, length: int, of: int
) -> None:
    write_shape(tmp_path, shape)
    planned = plan(tmp_path, replace(CPU, dtype=dtype), role=role)
    planned.check()
    assert planned.estimate.kv_cache_bytes == 4 * GIB
    assert planned.estimate.max_model_len == length
    assert planned.estimate.model_max_len == of
    assert planned.spec.arguments.get("max_model_len", of) == length


def test_8192_tokens_are_held_where_the_cap_holds_less(tmp_path: Path) -> None:
    write_shape(tmp_path, "llama-2-7b", context=16_384)  # 1 MiB a token in float32
    planned = plan(tmp_path)
    planned.check()
    assert planned.estimate.max_model_len == 8192
    assert planned.estimate.kv_cache_bytes == (8192 + 128) << 20
    short = write_shape(tmp_path / "short", "llama-2-7b")  # its own context is 4,096
    assert plan(short).estimate.max_model_len == 4096


def test_less_than_8192_tokens_need_a_word_from_the_user(tmp_path: Path) -> None:
    write_shape(tmp_path, "llama-2-7b", context=16_384)
    device = replace(CPU, free=34 * GIB)
    planned = plan(tmp_path, device)
    assert planned.fit.problem is not None
    assert "one sequence of 8,192 tokens" in planned.fit.problem
    (setting,) = planned.fit.settings
    assert setting.option == "engine.max_model_len"
    assert isinstance(setting.value, int)
    assert 1024 < setting.value < 8192
    plan(tmp_path, device, max_model_len=setting.value).check()


def test_a_length_that_is_asked_for_gets_its_memory_or_an_error(tmp_path: Path) -> None:
    write_shape(tmp_path, "qwen3-0.6b")
    planned = plan(tmp_path, max_model_len=40_960)  # beyond the 4 GiB, and there is enough
    planned.check()
    assert planned.estimate.kv_cache_bytes == (40_960 + 128) * 2 * 28 * 8 * 128 * 4
    small = plan(tmp_path, replace(CPU, free=10 * GIB), max_model_len=40_960)
    assert small.fit.problem is not None
    assert "one sequence of 40,960 tokens" in small.fit.problem
    assert "kv_cache_memory_bytes" not in small.fit.problem  # nobody has set that


def test_none_is_no_length(tmp_path: Path) -> None:
    write_shape(tmp_path, "qwen3-0.6b")
    assert options(tmp_path, max_model_len=None)["max_model_len"] == 18_688 - 128


def test_a_gpus_context_is_settled_by_vllm_which_measures(tmp_path: Path) -> None:
    write_shape(tmp_path, "llama-3.2-1b")
    gpu = Device(kind="gpu", free=12 * GIB, total=12 * GIB)
    planned = plan(tmp_path, gpu)
    assert planned.spec.arguments == {"max_model_len": -1}
    assert planned.estimate.max_model_len == 131_072
    assert planned.fit.problem is None
    small = plan(tmp_path, replace(gpu, free=6 * GIB, total=6 * GIB))
    assert 8192 <= (small.estimate.max_model_len or 0) < 131_072
    assert small.fit.problem is None


def test_an_encoder_keeps_no_cache_and_all_of_its_context(tmp_path: Path) -> None:
    bert = {"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6}
    write_tiny_model(tmp_path)
    config = {**bert, "num_attention_heads": 12, "max_position_embeddings": 512}
    (tmp_path / "config.json").write_text(json.dumps(config))
    planned = plan(tmp_path, role="embed")
    assert planned.spec.arguments["kv_cache_memory_bytes"] == 0
    assert planned.estimate.max_model_len == 512
    assert planned.held_bytes == planned.estimate.fixed_bytes
