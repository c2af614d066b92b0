"""How many processors this process may keep busy, and which lie together."""

from __future__ import annotations

import os
from pathlib import Path

from sage.common.components.sage_vllm.host.control_groups import core_quotas
from sage.common.components.sage_vllm.host.slurm_job import slurm_cores


def usable_cores(system: Path = Path("/")) -> int:
    """Return the processors that this thread may run on, at most what a quota pays for.

    With a quota of 1.5 that is 1: threads that wait for each other in turn, as those of a matrix
    product do, would all stand still when the quota of a period is used up. ``system`` is the
    folder in which ``proc`` and ``sys`` lie.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [cores or 1, *(max(1, int(quota)) for quota in core_quotas(system))]
    return min([*limits, slurm_cores() or limits[0]])


def processors_by_node(system: Path = Path("/")) -> list[list[int]]:
    """Return the numbers of the processors to keep busy, those of each NUMA node together.

    They are as many as ``usable_cores`` says, but at least one of each node that this process may
    run on. ``system`` is as there.
    """
    usable = sorted(os.sched_getaffinity(0))
    files = sorted(
        (system / "sys/devices/system/node").glob("node[0-9]*/cpulist"),
        key=lambda file: int(file.parent.name[4:]),
    )
    members = [_numbers(file.read_text(encoding="ascii")) for file in files]
    nodes = [[each for each in usable if each in of_node] for of_node in members]
    nodes = [node for node in nodes if node] or [usable]
    count, paid_for = usable_cores(system), {node[0] for node in nodes}
    for processor in (each for node in nodes for each in node):
        if len(paid_for) < count:
            paid_for.add(processor)
    return [[each for each in node if each in paid_for] for node in nodes]


def _numbers(text: str) -> set[int]:
    """Read the kernel's form of a list of processors, such as ``0-3,8``."""
    numbers: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers
