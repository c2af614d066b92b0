"""What a Slurm job was given of a node, where Slurm does not hold it to that by a control group.

Names and units are those of sbatch(1), "output environment variables".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def slurm_memory(system: Path) -> Iterator[tuple[int, int]]:
    """Yield the bytes that the job has on this node, with what this process uses of them.

    A job that takes more is killed. What its other processes use is not known here.
    """
    megabytes = _number("SLURM_MEM_PER_NODE")  # 0 is all that the node has
    if (each := _number("SLURM_MEM_PER_CPU")) and (cores := _number("SLURM_CPUS_ON_NODE")):
        megabytes = each * cores
    if megabytes:
        pages = (system / "proc/self/statm").read_text(encoding="ascii").split()
        yield megabytes << 20, int(pages[1]) * os.sysconf("SC_PAGE_SIZE")


def slurm_cores() -> int | None:
    """Return the processors of this task, else those of the job on this node; None outside."""
    return _number("SLURM_CPUS_PER_TASK") or _number("SLURM_CPUS_ON_NODE")


def _number(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else None
