"""The device that an engine here would compute on, told without importing vLLM."""

from __future__ import annotations

from sage.common.components.sage_vllm.planning.device import Device, this_cpu
from sage.tools.cli.machine.machine_memory import machine_gpu
from sage.tools.cli.machine.vllm_build import is_cpu_build


def engine_device() -> Device:
    """Return the largest GPU; this machine if there is none, or vLLM is for the CPU alone."""
    gpu = None if is_cpu_build() else machine_gpu()
    if gpu is None:
        return this_cpu()
    return Device(kind="gpu", free=gpu.free, total=gpu.total)
