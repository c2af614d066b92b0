"""What a plan is told of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage.common.components.sage_vllm.host.host_memory import host_memory
from sage.common.components.sage_vllm.planning.device import available_memory, this_cpu


def test_this_cpu_says_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    before, device, after = available_memory(), this_cpu(), available_memory()
    assert device.kind == "cpu"
    assert device.total == host_memory().total
    assert 0 < (device.free or 0) < host_memory().total
    # What other programs take or give back meanwhile is between the two.
    assert 0.7 * min(before, after) <= (device.free or 0) <= 1.3 * max(before, after)
    assert device.kv_cache_bytes is None


def test_vllms_own_setting_of_the_kv_cache_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    assert this_cpu().kv_cache_bytes == 2 << 30
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "0")  # leaves it to vLLM
    assert this_cpu().kv_cache_bytes is None


def test_the_dtype_is_never_float16_which_processors_emulate() -> None:
    flags = Path("/proc/cpuinfo").read_text()
    fast = "avx512f" in flags or " bf16" in flags
    assert this_cpu().dtype == ("bfloat16" if fast else "float32")
