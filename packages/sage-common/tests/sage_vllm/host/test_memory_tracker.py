"""The shared memory of a program is deleted, also where its children are killed before it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import time
from multiprocessing.shared_memory import SharedMemory
from sage.common.components.sage_vllm.host.memory_tracker import have_memory_tracker

have_memory_tracker()
memory = SharedMemory(create=True, size=1)
print(memory.name, flush=True)
time.sleep(100)
"""


def test_what_kills_children_too_leaves_no_shared_memory() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    memory = Path("/dev/shm") / program.stdout.readline().strip()
    assert memory.is_file()
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
    for process in [*map(int, children), program.pid]:
        os.kill(process, signal.SIGKILL)
    program.communicate()
    end = time.monotonic() + 60
    while memory.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_tracker_that_runs_is_kept() -> None:
    program = (
        "from multiprocessing import resource_tracker as tracker\n"
        "from sage.common.components.sage_vllm.host.memory_tracker import have_memory_tracker\n"
        "have_memory_tracker()\n"
        "first = tracker.getfd()\n"
        "have_memory_tracker()\n"
        "print(tracker.getfd() == first)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert said.stdout == "True\n"
