"""What tests wait for, and ask of processes: which came of one, which run, what they share."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def wait_for_the_end_of(processes: set[int], seconds: float = 30) -> None:
    """Wait until none of some processes runs: 15 s, and as long again where others work too."""
    end = time.monotonic() + seconds
    while left := {each for each in processes if is_alive(each)}:
        assert time.monotonic() < end, left
        time.sleep(0.05)


def shared_files(processes: set[int]) -> set[Path]:
    """Return the files of shared memory that processes have mapped, by the names they have."""
    found = set()
    for process in processes:
        with suppress(OSError):
            for line in Path(f"/proc/{process}/maps").read_text().splitlines():
                if "/dev/shm/" in line:
                    found.add(Path(line[line.index("/") :].removesuffix(" (deleted)")))
    return found


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
