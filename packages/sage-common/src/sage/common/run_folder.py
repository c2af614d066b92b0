"""The run folder: a record for each server and service of this user, gone when its process is.

::

    <root>/<kind>-<pid>-<random>.json   the facts, replaced whole at each change
    <root>/<kind>-<pid>-<random>.lock   locked by the recorded process for as long as it lives

The system lets go of a lock (flock) however its holder ends, by SIGKILL or a power cut too.
Whoever reads the records removes those whose lock is free; no name is ever used twice, so nobody
removes what belongs to another. The lock is taken before the facts can be seen. Files of any other
name are somebody else's.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

from sage.common.core.local_path import user_folder

ROOT_VARIABLE = "SAGE_RUN_ROOT"
_STEM = re.compile(r"(server|service)-\d+-[0-9a-f]{8}")
_ORPHAN_SECONDS = 60.0
"""A lock without facts is removed when it is older: before, its record may be in the making."""


def run_root() -> Path:
    """SAGE_RUN_ROOT, else ~/.sage/run; raises NoHomeFolderError, an OSError, without a home."""
    return user_folder(ROOT_VARIABLE, "~/.sage/run")


def make_run_root() -> Path:
    """Return the folder, made where it is missing, for this user's eyes only; raises OSError."""
    root = run_root()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    return root


def start_ticks(pid: int) -> int | None:
    """When a process started, in the kernel's ticks since boot; None if there is no such process.

    With it, a process is told from a later one of the same id, whatever is done to the clock:
    field 22 of /proc/<pid>/stat, see proc(5). Linux only, None elsewhere.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])


class RunRecord:
    """The record of a running process, kept until it is removed or its process ends.

    ``facts`` go into it as JSON, with ``kind``, ``pid``, ``start_ticks`` and ``started``. Raises
    OSError where the run folder cannot be written.
    """

    def __init__(self, kind: Literal["server", "service"], **facts: Any) -> None:
        pid = os.getpid()
        stem = make_run_root() / f"{kind}-{pid}-{os.urandom(4).hex()}"
        self._path, self._lock_path = stem.with_suffix(".json"), stem.with_suffix(".lock")
        self.facts: dict[str, Any] = {
            "kind": kind,
            "pid": pid,
            "start_ticks": start_ticks(pid),
            "started": datetime.now(tz=UTC).isoformat(timespec="milliseconds"),
        }
        # Not inherited by programs that this one starts, unless they are passed it by name.
        self._fd: int | None = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        _held.add(self)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.update(**facts)
        except BaseException:
            self.remove()
            raise

    def fileno(self) -> int:
        """Return the lock's descriptor: a process that inherits it keeps the record alive."""
        if self._fd is None:
            raise ValueError("the record is not held by this process")
        return self._fd

    def update(self, **facts: Any) -> None:
        """Change some facts; raises OSError."""
        if self._fd is None:
            return
        changed = {**self.facts, **facts}
        temporary = self._path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - by its descriptor
            json.dump(changed, file)
        temporary.replace(self._path)
        self.facts = changed

    def remove(self) -> None:
        """Take the record away, once; nothing happens in a process that was forked since."""
        if self._fd is not None:
            _remove(self._path)
            self.release()

    def release(self) -> None:
        """Leave the record to the process that inherited its lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            _held.discard(self)


def read_records() -> list[dict[str, Any]]:
    """Return the facts of all that runs, the oldest first, and remove the records of the dead.

    A record that cannot be read, or is another user's, is left out. Empty where there is no folder.
    """
    root = run_root()
    found = []
    for path in _ours(root, ".json"):
        try:
            if _is_stale(path):
                _remove(path)
            elif isinstance(facts := json.loads(path.read_text(encoding="utf-8")), dict):
                found.append(facts)
        except (OSError, ValueError):  # it went away just now, or is none of ours
            continue
    for lock in _orphans(root):
        _remove(lock.with_suffix(".json"))
    return sorted(found, key=lambda facts: str(facts.get("started")))


def _ours(root: Path, suffix: str) -> list[Path]:
    return [path for path in root.glob(f"*{suffix}") if _STEM.fullmatch(path.stem)]


def _is_stale(path: Path) -> bool:
    """Whether nobody holds the lock of the record at ``path``; raises OSError if it is not ours."""
    try:
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            raise PermissionError(path)
        # Shared, so that two readers at once do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _orphans(root: Path) -> Iterator[Path]:
    """Locks that their makers left before there were facts, which takes a SIGKILL to happen."""
    for lock in _ours(root, ".lock"):
        try:
            is_old = time.time() - lock.stat().st_mtime > _ORPHAN_SECONDS
            if is_old and not lock.with_suffix(".json").exists() and _is_stale(lock):
                yield lock
        except OSError:
            continue


def _remove(path: Path) -> None:
    for suffix in (".json", ".new", ".lock"):  # the lock last: it says whose the others are
        try:
            path.with_suffix(suffix).unlink(missing_ok=True)
        except OSError:  # read-only by now; the free lock says enough
            return


_held: WeakSet[RunRecord] = WeakSet()


def _let_go() -> None:
    for record in list(_held):
        record.release()


# A forked child shares the lock, and would keep the record of its dead parent alive.
os.register_at_fork(after_in_child=_let_go)
