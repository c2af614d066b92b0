"""The engine options that make vLLM start and run well on a CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_GIB = 1 << 30
_LARGEST_KV_CACHE = 4 * _GIB


def cpu_defaults() -> dict[str, Any]:
    """Return options for a CPU; each is used only where the configuration does not set it.

    - no compilation: it takes minutes and gains little;
    - a KV cache of at most 4 GiB and a quarter of the memory that is free: vLLM's own default is
      nearly all memory of the machine;
    - float32 where the processor has no AVX-512: 16-bit matrix products are emulated there, at
      about an eighth of the speed.
    """
    options: dict[str, Any] = {"enforce_eager": True}
    if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        options["kv_cache_memory_bytes"] = min(_LARGEST_KV_CACHE, available_memory() // 4)
    if not _has_fast_bfloat16():
        options["dtype"] = "float32"
    return options


def available_memory() -> int:
    """Return the bytes of memory that can be had without swapping (Linux's MemAvailable)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo does not name MemAvailable")


def _has_fast_bfloat16() -> bool:
    flags = Path("/proc/cpuinfo").read_text()
    return "avx512f" in flags or " bf16" in flags  # bf16: as ARM names it
