"""The memory of the device that engines are loaded into, and how several engines share it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from sage.common.components.sage_vllm.backend.inline_setup import BUILD_LOCK
from sage.common.components.sage_vllm.backend.vllm_device import import_vllm, vllm_device
from sage.common.components.sage_vllm.engine_abilities import DeviceMemory
from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.host.own_memory import own_memory
from sage.common.components.sage_vllm.host.usable_cores import processors_by_node
from sage.common.components.sage_vllm.planning.device import Device
from sage.common.components.sage_vllm.planning.gpu_shares import gpu_shares
from sage.common.components.sage_vllm.planning.replica_places import replica_places


def share_device(main: EngineSpec, *others: EngineSpec) -> tuple[EngineSpec, ...]:
    """Return them with the shares of a GPU's memory by which all fit; raises as ``build``.

    On a CPU each engine is sized by itself, to a part of what is free.
    """
    with BUILD_LOCK:
        import_vllm(main.model_id)
        device = vllm_device()
    if device.kind == "cpu" or device.free is None or device.total is None:
        return main, *others
    shares = gpu_shares(main, *others, free=device.free, total=device.total)
    return tuple(
        replace(spec, arguments={**spec.arguments, "gpu_memory_utilization": share})
        for spec, share in zip((main, *others), shares, strict=True)
    )


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


def replica_specs(spec: EngineSpec) -> list[EngineSpec]:
    """Return a spec for each replica of a model, with a place of its own; see replica_places.

    Raises InvalidOptionError where there is too little for them, or for engines that are to be
    inline, which would compute in turn.
    """
    with BUILD_LOCK:
        import_vllm(spec.model_id)
        device = vllm_device()
    places = _places(spec, device)
    part = part_of(spec, replicas_beside(spec, device))
    return [replace(part, mode="process", replicas=1, variables=place) for place in places]


def replicas_beside(spec: EngineSpec, device: Device) -> int:
    """Return how many replicas of a model share the device's memory: on GPUs each has its own."""
    alone = spec.replicas == 1 or device.kind != "cpu"
    return 1 if alone else len(_places(spec, device))


def part_of(spec: EngineSpec, count: int) -> EngineSpec:
    """Return the spec of one of so many engines that share what the spec may use."""
    limit = None if spec.memory_limit is None else spec.memory_limit // count
    return replace(spec, memory_limit=limit)


def _places(spec: EngineSpec, device: Device) -> list[dict[str, str]]:
    if spec.mode == "inline":
        problem = "replicas need processes of their own, and engine_mode is 'inline'"
        hint = "leave replicas at 1, or set"
        raise InvalidOptionError(
            "replicas", spec.replicas, problem, hint=hint, option="engine_mode", value="process"
        )
    each = spec.arguments.get("tensor_parallel_size") or 1
    nodes = processors_by_node() if device.kind == "cpu" else []
    return replica_places(spec.replicas, device, each, nodes)
