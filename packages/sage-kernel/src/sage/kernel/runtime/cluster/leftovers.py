"""Ends what is left of a cluster of one machine when the program that started it is gone.

Ray's own processes end with it, but for two agents: these want to tell the cluster first, and wait
a minute for one that is not there any more. So the program starts this one beside them, with a
pipe that ends when it does::

    python -m sage.kernel.runtime.cluster.leftovers <the id of Ray's node>
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_GRACE = 3.0  # seconds that they have to end by themselves


def watch(node_id: str) -> subprocess.Popen[bytes]:
    """Start the process that waits for the end of this one; what is written to it ends it too."""
    command = [sys.executable, "-m", __name__, node_id]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )


def end_all_of(node_id: str) -> None:
    """Kill all processes that have a node of Ray's in their environment."""
    mark = f"RAY_NODE_ID={node_id}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is somebody else's
            if mark in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)


if __name__ == "__main__":
    if not sys.stdin.buffer.read():  # else the program has ended its cluster itself
        time.sleep(_GRACE)
        end_all_of(sys.argv[1])
