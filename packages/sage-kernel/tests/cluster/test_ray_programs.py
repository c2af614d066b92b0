"""Programs with a RayEnvironment that are killed or interrupted: what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent

PROGRAM = """
    import sys
    sys.path.insert(0, {here!r})
    import cluster_services as there
    from sage.kernel.api import RayEnvironment

    services = {{"doubler": {{"replicas": 2}}}}
    env = RayEnvironment("alone", {{"address": "local", "services": services}})
    env.register_service("doubler", there.Slow)
    env.from_collection(range(100_000)).map(there.Ask).sink(lambda n: None)
    env.submit(autostop=False)
    print(*(each.process for each in env.metrics().services["doubler"]), flush=True)
    env.wait()
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_program_that_ends_leaves_nothing(signal_number: int) -> None:
    """It starts a cluster of its own, which goes with it."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM.format(here=str(HERE)))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        text=True,
    )
    try:
        assert program.stdout is not None
        replicas = {int(process) for process in program.stdout.readline().split()}
        assert len(replicas) == 2
        left = descendants(program.pid)
        assert replicas < left
        program.send_signal(signal_number)
        program.communicate(timeout=30)
        end = time.monotonic() + 60  # 15 s on a machine that does nothing else
        while left := {each for each in left if is_alive(each)}:
            assert time.monotonic() < end, left
            time.sleep(0.05)
    finally:
        program.kill()


def descendants(process: int) -> set[int]:
    """Return the numbers of all processes that came of one."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found: set[int] = set()
    new = [process]
    while new:
        children = parents.get(new.pop(), [])
        found.update(children)
        new += children
    return found


def is_alive(process: int) -> bool:
    """Whether a process runs: one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
