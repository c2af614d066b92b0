"""When what is through gets committed: soon, whatever the pipeline waits for by then."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from sage.common.core.functions import AsyncMapFunction
from sage.kernel.api import DataStream, LocalEnvironment
from sage.kernel.runtime.checkpoint import DurableSink


class Counting(DurableSink):
    """Counts records."""

    def __init__(self) -> None:
        self.count = 0

    def begin(self, state: int | None) -> None:
        self.count = state or 0

    def state(self) -> int:
        return self.count

    def sync(self) -> None: ...

    def finish(self) -> None: ...

    def execute(self, record: Any) -> None:
        self.count += 1


class Waiting:
    """Functions that let ten records through, and wait with the one after these."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def records(self) -> Iterator[int]:
        yield from range(10)
        self.go_on.wait(40)
        yield 10

    def work(self, number: int) -> int:
        if number == 10:
            self.go_on.wait(40)
        return number


class Remote(AsyncMapFunction):
    """Answers ten records at once, and the one after these when it may."""

    def __init__(self, waiting: Waiting) -> None:
        self.waiting = waiting

    def submit(self, number: int) -> Future[int]:
        future: Future[int] = Future()
        if number == 10:
            threading.Thread(target=self._answer_later, args=(future,), daemon=True).start()
        else:
            future.set_result(number)
        return future

    def _answer_later(self, future: Future[int]) -> None:
        self.waiting.go_on.wait(40)
        future.set_result(10)


def committed(folder: Path) -> int:
    """Return the position in a checkpoint that a run holds; what it has committed is in its log."""
    copy = folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)  # a log of an earlier copy must not be read
    shutil.copytree(folder, copy)
    with closing(sqlite3.connect(copy / "checkpoint.sqlite")) as store:
        query = "SELECT value FROM checkpoint WHERE key = 'position'"
        return int(store.execute(query).fetchone()[0])


def is_committed(folder: Path, position: int) -> bool:
    """Wait until a position is committed, for at most twenty seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(sqlite3.Error, OSError, TypeError):  # it was copied while it was written
            if committed(folder) == position:
                return True
        time.sleep(0.02)
    return False


def source_of_an_async_map(env: LocalEnvironment, waiting: Waiting) -> DataStream:
    return env.from_source(waiting.records).map(Remote, waiting)


def record_in_flight(env: LocalEnvironment, waiting: Waiting) -> DataStream:
    return env.from_collection(range(11)).map(Remote, waiting)


def record_in_flight_behind_another(env: LocalEnvironment, waiting: Waiting) -> DataStream:
    at_once = Waiting()
    at_once.go_on.set()
    return env.from_collection(range(11)).map(Remote, at_once).map(Remote, waiting)


def filter_before_an_async_map(env: LocalEnvironment, waiting: Waiting) -> DataStream:
    return env.from_source(waiting.records).filter(lambda x: x in (3, 10)).map(Remote, waiting)


def nothing_left_for_an_async_map(env: LocalEnvironment, waiting: Waiting) -> DataStream:
    return env.from_source(waiting.records).filter(lambda x: x > 10).map(Remote, waiting)


def source(env: LocalEnvironment, waiting: Waiting) -> DataStream:
    return env.from_source(waiting.records)


def synchronous_map(env: LocalEnvironment, waiting: Waiting) -> DataStream:
    return env.from_collection(range(11)).map(waiting.work)


@pytest.mark.parametrize(
    "build",
    [
        source_of_an_async_map,
        record_in_flight,
        record_in_flight_behind_another,
        filter_before_an_async_map,
        nothing_left_for_an_async_map,
        source,
        synchronous_map,
    ],
)
def test_what_is_through_is_committed_while_the_next_record_is_waited_for(
    tmp_path: Path, build: Callable[[LocalEnvironment, Waiting], DataStream]
) -> None:
    waiting = Waiting()
    env = LocalEnvironment("waiting")
    build(env, waiting).sink(Counting)
    env.submit(autostop=False, checkpoint=tmp_path / "checkpoint")
    in_time = is_committed(tmp_path / "checkpoint", 10)
    waiting.go_on.set()
    env.wait()
    env.close()
    assert in_time
    assert committed(tmp_path / "checkpoint") == 11


def test_a_slow_disk_gets_its_commits_too_and_no_other_call_meanwhile(
    tmp_path: Path, held_up: Callable[[], float]
) -> None:
    syncs: list[float] = []

    class Slow(Counting):
        syncing = False

        def sync(self) -> None:
            self.syncing = True
            time.sleep(0.3)
            self.syncing = False
            syncs.append(time.monotonic())

        def state(self) -> int:
            assert not self.syncing
            return super().state()

        def execute(self, record: Any) -> None:
            assert not self.syncing
            super().execute(record)

    def until_synced_thrice() -> Iterator[int]:
        while len(syncs) < 3:
            yield 0

    env = LocalEnvironment("slow disk")
    env.from_source(until_synced_thrice).sink(Slow)
    env.submit(checkpoint=tmp_path)
    assert syncs[2] - syncs[0] < 4 + held_up()


def test_a_commit_that_fails_ends_a_run_that_waits(tmp_path: Path) -> None:
    class Full(Counting):
        def sync(self) -> None:
            if self.count == 10:
                raise OSError("the disk is full")

    waiting = Waiting()
    env = LocalEnvironment("full", {"close_timeout": 0.05})
    env.from_source(waiting.records).sink(Full)
    with pytest.raises(OSError, match="the disk is full") as caught:
        env.submit(checkpoint=tmp_path)
    waiting.go_on.set()
    assert "while record 9 and those before it were committed" in caught.value.__notes__
    assert env.failure is not None


@pytest.mark.timeout(180)  # on two idle cores it lasts some ten seconds
def test_a_run_ends_also_at_the_very_moment_of_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage.kernel.runtime.checkpoint.checkpoint._INTERVAL", 1e-4)
    for run in range(100):
        env = LocalEnvironment("short")
        env.from_collection(range(200 * run)).sink(Counting)
        env.submit(checkpoint=tmp_path / str(run))
