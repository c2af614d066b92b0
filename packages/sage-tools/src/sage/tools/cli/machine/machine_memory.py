"""How much memory this machine has for a model, without importing an engine to ask."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from sage.common.components.sage_vllm.host.host_memory import host_memory
from sage.common.model_registry.vllm_registry import format_bytes
from sage.tools.cli.machine.device import gpus

_ROOM = 1.2
"""Weights need this much room: the engine's buffers and a short context come on top of them."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory that an engine would use, in bytes."""

    device: str
    total: int
    free: int


def machine_memory() -> Memory:
    """Return the largest GPU's memory; without one the machine's, zeros where nobody tells."""
    return machine_gpu() or _host()


def verdict(weights: int, memory: Memory) -> str:
    """Whether weights of this many bytes fit, in words."""
    needed = int(weights * _ROOM)
    if not weights or not memory.total:
        return "unknown"
    numbers = (
        f"needs about {format_bytes(needed)}; {memory.device} has {format_bytes(memory.free)} free "
        f"of {format_bytes(memory.total)}"
    )
    if needed > memory.total:
        return f"does not fit this machine: {numbers}"
    return f"fits: {numbers}" if needed <= memory.free else f"does not fit now: {numbers}"


def machine_gpu() -> Memory | None:
    """Return the largest GPU's memory; None where there is none, or it does not answer."""
    try:
        largest = max(gpus(), key=lambda gpu: gpu.total, default=None)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if largest is None or not largest.total:
        return None
    return Memory(device="the GPU", total=largest.total, free=largest.free)


def _host() -> Memory:
    try:
        memory = host_memory()
    except OSError:
        return Memory(device="this machine", total=0, free=0)
    device = "this process's share of the machine" if memory.is_share else "this machine"
    return Memory(device=device, total=memory.total, free=memory.available)
