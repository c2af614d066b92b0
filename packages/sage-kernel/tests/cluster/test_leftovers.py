"""What ends the processes of a program that was killed, with processes that are not Ray's."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves it out

from cluster_processes import is_alive, wait_for_the_end_of

PROGRAM = """
    import os, subprocess, sys
    from pathlib import Path
    from sage.kernel.runtime.cluster.leftovers import Watcher

    def start(environment, log, mode="w"):
        with log.open(mode) as file:
            every = {**os.environ, **environment}
            return subprocess.Popen(["sleep", "100"], env=every, stdout=file)

    folder, other = Path(sys.argv[1]) / "session", Path(sys.argv[1]) / "session_2"
    folder.mkdir()
    other.mkdir()
    watcher = Watcher()
    marked = start(watcher.environment, other / "log")
    titled = start({}, folder / "log")  # as one whose title has overwritten its environment
    stranger = start({}, folder / "log", "r")  # as one that shows the log
    watcher.tell(str(folder))
    print(marked.pid, titled.pid, stranger.pid, flush=True)
    if sys.argv[2] == "ended":
        watcher.end(all_ended=True)
    os._exit(1)
"""


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_what_a_program_left_is_ended_and_nothing_else(tmp_path: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path), how],
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    *left, stranger = map(int, done.stdout.split())
    try:
        if how == "killed":
            wait_for_the_end_of(set(left))
        else:
            assert all(map(is_alive, left))
        assert is_alive(stranger)
    finally:
        for process in (*left, stranger):
            if is_alive(process):
                os.kill(process, 9)
