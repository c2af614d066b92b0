"""The memory of the device that engines are loaded into, and how two engines share it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from sage.common.components.sage_vllm.backend.inline_setup import BUILD_LOCK
from sage.common.components.sage_vllm.backend.vllm_device import import_vllm, vllm_device
from sage.common.components.sage_vllm.engine_contract import DeviceMemory, EngineSpec
from sage.common.components.sage_vllm.host.own_memory import own_memory
from sage.common.components.sage_vllm.planning.gpu_shares import gpu_shares


def share_device(text: EngineSpec, embedding: EngineSpec) -> tuple[EngineSpec, EngineSpec]:
    """Return the two with the shares of a GPU's memory by which both fit; raises as ``build``.

    On a CPU each engine is sized by itself, to a part of what is free.
    """
    with BUILD_LOCK:
        import_vllm(text.model_id)
        device = vllm_device()
    if device.kind == "cpu" or device.free is None or device.total is None:
        return text, embedding
    shares = gpu_shares(text, embedding, free=device.free, total=device.total)
    shared = [
        replace(spec, arguments={**spec.arguments, "gpu_memory_utilization": share})
        for spec, share in zip((text, embedding), shares, strict=True)
    ]
    return shared[0], shared[1]


def device_memory() -> DeviceMemory | None:
    """Return the device's memory; None where nobody says. Raises VLLMNotInstalledError."""
    _have_vllm()
    device = vllm_device()
    if device.free is None or device.total is None:
        return None
    return DeviceMemory(free=device.free, total=device.total, is_gpu=device.kind == "gpu")


def taken_memory() -> int:
    """Return the bytes that this process has of a CPU's memory; 0 on a GPU."""
    _have_vllm()
    return own_memory() if vllm_device().kind == "cpu" else 0


@cache
def _have_vllm() -> None:
    """Import vLLM, once: what is asked often must not wait for engines that are being built."""
    with BUILD_LOCK:
        import_vllm("a model")
