"""What Linux's control groups allow this process: a container's limits, a job's, a service's.

Both versions are read, see cgroups(7). A group inside another is held to the limits of both, so
all of them are looked at. A container sees its own group at the root, whatever its path says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_MEMORY_FILES = (  # limit, what is used of it, and how memory.stat begins the names of its fields
    ("memory.max", "memory.current", ""),
    ("memory.high", "memory.current", ""),  # above it a process is slowed down until it crawls
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),  # version 1
)
_RECLAIMABLE = ("active_file", "inactive_file")


def memory_limits(system: Path) -> Iterator[tuple[int, int]]:
    """Yield the limits on this process's memory, each with what is used of it, in bytes.

    Files in the page cache, which a group counts as used, are not: they make room when asked.
    """
    for group in _groups(system, "memory"):
        for limit_name, used_name, prefix in _MEMORY_FILES:
            limit, used = _number(group / limit_name), _number(group / used_name)
            if limit is not None and used is not None:
                yield limit, max(0, used - _reclaimable(group, prefix))


def core_quotas(system: Path) -> Iterator[float]:
    """Yield the limits on this process's time on processors, in processors."""
    for group in _groups(system, "cpu"):
        quota, period = _number(group / "cpu.max"), _number(group / "cpu.max", field=1)
        if period is None:  # version 1, where a quota of -1 is none
            quota = _number(group / "cpu.cfs_quota_us")
            period = _number(group / "cpu.cfs_period_us")
        if quota is not None and quota > 0 and period:
            yield quota / period


def _groups(system: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, the innermost first."""
    mounts = system / "sys/fs/cgroup"
    try:
        lines = (system / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2; beside version 1 it is mounted below
            top = mounts if (mounts / "cgroup.controllers").exists() else mounts / "unified"
        elif controller in controllers.split(","):
            top = mounts / controllers
            top = top if top.exists() else mounts / controller
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        if ".." in group.parts:  # it lies outside of what this process can see
            group = PurePosixPath()
        for part in (group, *group.parents):
            if (top / part).is_dir():
                yield top / part


def _number(file: Path, *, field: int = 0) -> int | None:
    """Return a number of a file; None where it has none, such as "max", or is not there."""
    try:
        return int(file.read_text(encoding="ascii").split()[field])
    except (OSError, ValueError, IndexError):
        return None


def _reclaimable(group: Path, prefix: str) -> int:
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    fields = dict(line.split() for line in lines)
    return sum(int(fields.get(f"{prefix}{name}", 0)) for name in _RECLAIMABLE)
