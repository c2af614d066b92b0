"""How much memory this machine, or this process's share of it, has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """Bytes: ``total`` is what there is, ``available`` what can be had without swapping."""

    total: int
    available: int


def host_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> HostMemory:
    """Return the machine's memory, or what a container's limit leaves of it if that is less.

    Linux only: ``meminfo`` is read for MemTotal and MemAvailable, ``cgroup`` (version 2) for
    ``memory.max`` and ``memory.current``, which are missing or "max" where nothing is limited.
    Raises OSError where there is no ``meminfo``.
    """
    sizes = {}
    for line in meminfo.read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) << 10
    total, available = sizes["MemTotal"], sizes["MemAvailable"]
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text()) - _reclaimable(cgroup)
    except (OSError, ValueError):  # no such files, or "max"
        return HostMemory(total=total, available=available)
    return HostMemory(total=min(total, limit), available=max(0, min(available, limit - used)))


def _reclaimable(cgroup: Path) -> int:
    """Return the bytes of files in the page cache, which a cgroup counts as used."""
    try:
        lines = (cgroup / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(x.split()[1]) for x in lines if x.startswith(("inactive_file ", "active_file ")))
