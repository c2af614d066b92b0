"""Has the shared memory of engines deleted, also where all of a program's children are killed.

Python's resource tracker deletes it once the program and its engines are gone, whatever ended them.
But it is a child of the program; and Ray, for one, kills the children of a process whose job is
over. So it is started as nobody's child, in a session of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from multiprocessing import resource_tracker, util
from typing import Any

_AS_NOBODYS_CHILD = """
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
for stream in range(3):  # who waits for their end waits for the program's, not for this one's
    os.dup2(os.open(os.devnull, os.O_RDWR), stream)
os.execv(sys.argv[1], sys.argv[1:])
"""


def have_memory_tracker() -> None:
    """Start Python's resource tracker, unless it runs, such that it outlives this process."""
    spawn = util.spawnv_passfds

    def start(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        if "resource_tracker" not in str(args[-1]):  # another thread starts something else
            return spawn(path, args, passfds)
        command = [sys.executable, "-ISc", _AS_NOBODYS_CHILD, *args]
        child = spawn(os.fsencode(sys.executable), command, passfds)
        os.waitpid(child, 0)
        return child

    util.spawnv_passfds = start
    try:
        resource_tracker.ensure_running()
    finally:
        util.spawnv_passfds = spawn
