"""Ends what is left of a cluster of one machine when the program that started it is gone.

Ray's own processes end with it, but for two agents: these want to tell the cluster first, and wait
a minute for one that is not there any more. So the program starts this one before them, with a
pipe that ends when it does::

    python -m sage.kernel.runtime.cluster.leftovers <a mark in the environment of all of them>
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MARK = "SAGE_CLUSTER_OF"
_GRACE = 3.0  # seconds that they have to end by themselves


@contextmanager
def none_left() -> Iterator[Callable[[], None]]:
    """Have all that is started in the block end with this program, however that ends.

    Gives what tells that the program has ended them itself. After an error of the block none is
    left.
    """
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", __name__, mark]
    watcher = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )

    def ended() -> None:
        watcher.communicate(b"ended")

    os.environ[_MARK] = mark
    try:
        yield ended
    except BaseException:
        watcher.communicate()
        raise
    finally:
        del os.environ[_MARK]


def end_all_of(mark: str) -> None:
    """Wait for the end of all processes with a mark in their environment; kill those that stay."""
    begun = time.monotonic()
    while (processes := _all_of(mark)) and time.monotonic() - begun < 2 * _GRACE:
        if time.monotonic() - begun > _GRACE:
            for process in processes:
                with suppress(OSError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(0.1)


def _all_of(mark: str) -> list[int]:
    marked = f"{_MARK}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is somebody else's
            if marked in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    if not sys.stdin.buffer.read():  # else the program has ended its cluster itself
        end_all_of(sys.argv[1])
