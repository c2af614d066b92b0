"""How much memory this machine, or this process's share of it, has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sage.common.components.sage_vllm.host.control_groups import memory_limits
from sage.common.components.sage_vllm.host.slurm_job import slurm_memory


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """Bytes: ``total`` is what there is, ``available`` what can be had without swapping.

    ``is_share`` says that the machine has more than this process may use.
    """

    total: int
    available: int
    is_share: bool = False


def host_memory(system: Path = Path("/")) -> HostMemory:
    """Return the machine's memory, or what this process may use of it if that is less.

    Linux only: MemTotal and MemAvailable of ``proc/meminfo``, the limits of the control groups
    that the process is in, and what a Slurm job was given. ``system`` is the folder in which
    ``proc`` and ``sys`` lie. Raises OSError where there is no ``proc/meminfo``.
    """
    sizes = {}
    for line in (system / "proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) << 10
    limits = [*memory_limits(system), *slurm_memory(system)]
    total = min([sizes["MemTotal"], *(limit for limit, _used in limits)])
    available = min([sizes["MemAvailable"], *(limit - used for limit, used in limits)])
    return HostMemory(total=total, available=max(0, available), is_share=total < sizes["MemTotal"])
