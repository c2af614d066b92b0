"""Ends what is left of a cluster of one machine when the program that started it is gone.

Most of Ray's own processes end with it. But two agents want to tell the cluster first, and workers
may: they wait a minute for one that is not there any more. So the program starts this one before
them, with a pipe that ends when it does::

    python -m sage.kernel.runtime.cluster.leftovers <a mark in the environment of all of them>

A worker writes its title over its environment. It is known by the session's folder, where its log
is, which comes through the pipe once there is one. Until then all is noted that the marked ones
start: a program may end before its session has begun.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

_MARK = "SAGE_CLUSTER_OF"
_ENDED = b"ended"
_GRACE = 3.0  # seconds that they have to end by themselves
_LOOK_EVERY = 0.2  # seconds, while the session begins

Processes = dict[int, str]
"""When each began, by its number: a number is used again some day."""


class Watcher:
    """Has what was started with ``environment`` end with this program, however that ends."""

    def __init__(self) -> None:
        mark = uuid.uuid4().hex
        self.environment = {_MARK: mark}
        command = [sys.executable, "-m", __name__, mark]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def tell(self, folder: str) -> None:
        """Say in which folder the session is."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        self._process.stdin.write(f"{folder}\n".encode())
        self._process.stdin.flush()

    def end(self, *, all_ended: bool) -> None:
        """Watch no more: all has ended, or it is waited for now, and what stays is killed."""
        self._process.communicate(_ENDED if all_ended else b"")


def end_all_of(mark: str, folder: str, known: Processes) -> None:
    """Wait for the end of all processes of a session, ``known`` ones too; kill those that stay."""
    begun = time.monotonic()
    while (processes := _all_of(mark, folder, known)) and time.monotonic() - begun < 2 * _GRACE:
        if time.monotonic() - begun > _GRACE:
            for process in processes:
                with suppress(OSError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(0.1)


def _all_of(mark: str, folder: str, known: Processes) -> list[int]:
    return [
        process
        for process, (_parent, began) in _processes().items()
        if known.get(process) == began or _is_marked(process, mark) or _writes_to(process, folder)
    ]


def started_by(mark: str) -> Processes:
    """Return the marked processes, and all that came of them."""
    processes = _processes()
    found: Processes = {}
    new = [process for process in processes if _is_marked(process, mark)]
    while new:
        found |= {process: processes[process][1] for process in new}
        new = [p for p, (parent, _) in processes.items() if parent in found and p not in found]
    return found


def _processes() -> dict[int, tuple[int, str]]:
    """Return the parent of each process, and when it began."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                found[int(path.parent.name)] = int(fields[1]), fields[19]
    return found


def _is_marked(process: int, mark: str) -> bool:
    with suppress(OSError):  # it has ended, or is somebody else's
        environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        return f"{_MARK}={mark}".encode() in environment
    return False


def _writes_to(process: int, folder: str) -> bool:
    """Whether a process has a file below a folder open to write; whoever looks at a log has not."""
    with suppress(OSError):  # it has ended, or is somebody else's
        for descriptor in Path(f"/proc/{process}/fd").iterdir() if folder else ():
            with suppress(OSError):  # closed meanwhile
                writes = descriptor.lstat().st_mode & stat.S_IWUSR
                if writes and descriptor.readlink().is_relative_to(folder):
                    return True
    return False


if __name__ == "__main__":
    noted: Processes = {}
    while not select.select([sys.stdin], [], [], _LOOK_EVERY)[0]:
        noted |= started_by(sys.argv[1])
    told = sys.stdin.buffer.read()
    if not told.endswith(_ENDED):  # else the program has ended its cluster itself
        end_all_of(sys.argv[1], told.decode().strip(), noted)
