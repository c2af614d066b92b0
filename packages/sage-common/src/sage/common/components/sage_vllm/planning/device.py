"""Device: what an engine runs on, as far as a plan depends on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sage.common.components.sage_vllm.host.host_memory import host_memory
from sage.common.components.sage_vllm.host.mapped_memory import promised_bytes

DeviceKind = Literal["cpu", "gpu"]


@dataclass(frozen=True, kw_only=True)
class Device:
    """What an engine runs on; sizes are in bytes, None where nobody says.

    - ``free``, ``total``: its memory; of several devices, that of the one with the least free.
    - ``dtype``: what weights are loaded in where nobody asks for another: ``"auto"``, or what a
      processor computes fast in.
    - ``kv_cache_bytes``: the size that the environment sets for every KV cache.
    - ``numbers``: the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them.
    """

    kind: DeviceKind
    free: int | None = None
    total: int | None = None
    dtype: str = "auto"
    kv_cache_bytes: int | None = None
    numbers: tuple[str, ...] = ()


def this_cpu() -> Device:
    """Return this machine as a device of engines that run without a GPU; Linux only."""
    # vLLM reads the variable as whole GiB; 0 leaves the size to it.
    set_size = int(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or 0) << 30
    return Device(
        kind="cpu",
        free=available_memory(),
        total=host_memory().total,
        # 16-bit matrix products are emulated elsewhere, at about an eighth of the speed.
        dtype="bfloat16" if _has_fast_bfloat16() else "float32",
        kv_cache_bytes=set_size or None,
    )


def available_memory() -> int:
    """Return the bytes of memory that can be had without swapping and are promised to nobody."""
    return max(0, host_memory().available - promised_bytes())


def _has_fast_bfloat16() -> bool:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return "avx512f" in flags or " bf16" in flags  # bf16: as ARM names it
