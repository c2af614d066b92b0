"""Where the replicas of a model run: a part of the processors, or devices of their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.planning.device import Device


def replica_places(
    replicas: int | Literal["auto"],
    device: Device,
    devices_each: int,
    nodes: Sequence[Sequence[int]],
) -> list[dict[str, str]]:
    """Return, for each replica, the variables by which its engine's process keeps to its place.

    Args:
        replicas: how many; ``"auto"`` is as many as there are groups of devices or NUMA nodes.
        device: what engines run on here.
        devices_each: ``tensor_parallel_size``, of each replica.
        nodes: the processors of each NUMA node that can be used.

    Raises:
        InvalidOptionError: there are too few devices or processors.
    """
    if device.kind == "cpu":
        count = len(nodes) if replicas == "auto" else replicas
        parts = nodes if count == len(nodes) else _parts([p for node in nodes for p in node], count)
        return [{"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, part))} for part in parts]
    devices = device.numbers
    count = len(devices) // devices_each if replicas == "auto" else replicas
    if count < 1 or count * devices_each > len(devices):
        problem = (
            f"{replicas} replicas with {devices_each} devices each need more than the "
            f"{len(devices)} devices that are visible"
        )
        raise InvalidOptionError("replicas", replicas, problem, hint="ask for fewer, or for 'auto'")
    groups = [devices[n * devices_each : (n + 1) * devices_each] for n in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]


def _parts(processors: Sequence[int], count: int) -> list[Sequence[int]]:
    """Cut the processors into parts that are equal but for one."""
    if count > len(processors):
        problem = f"{count} replicas need a processor each, and {len(processors)} can be used"
        raise InvalidOptionError("replicas", count, problem, hint="ask for fewer, or for 'auto'")
    ends = [len(processors) * n // count for n in range(count + 1)]
    return [processors[begin:end] for begin, end in pairwise(ends)]
