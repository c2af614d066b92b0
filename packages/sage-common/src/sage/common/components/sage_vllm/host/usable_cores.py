"""usable_cores(): how many processors this process may keep busy."""

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
