"""Hanging is how a kernel fails: every test here ends within seconds or is stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("timeout") is None:
            # The first that runs on a cluster starts it, on a busy machine in half a minute.
            on_cluster = "each_environment" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.timeout(150 if on_cluster else 60))


@pytest.fixture
def held_up() -> Iterator[Callable[[], float]]:
    """A function that returns how many seconds late the threads of this process are, all in all.

    A machine that is busy, or stands still for a moment, makes them late. What may last so many
    seconds at most may last as many more: ``assert seconds < 2 + held_up()``.
    """
    turn = 0.01
    late, slept, over = 0.0, time.monotonic(), threading.Event()

    def now() -> float:
        return late + max(0.0, time.monotonic() - slept - turn)

    def watch() -> None:
        nonlocal late, slept
        while not over.wait(turn):
            late, slept = now(), time.monotonic()

    watcher = threading.Thread(target=watch, name="held-up", daemon=True)
    watcher.start()
    yield now
    over.set()
    watcher.join()


@pytest.fixture
def threads_left() -> Callable[[str], list[str]]:
    """A function that returns the names of threads, by how they begin, that do not end.

    One that has said that all is done may be at its very end.
    """

    def left(prefix: str) -> list[str]:
        threads = [each for each in threading.enumerate() if each.name.startswith(prefix)]
        for thread in threads:
            thread.join(10)
        return [thread.name for thread in threads if thread.is_alive()]

    return left
