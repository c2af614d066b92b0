"""What may go wrong in a long run: poison records, functions that raise, a slow sink."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from sage.common.core.functions import AsyncMapFunction, SinkFunction
from sage.kernel.api import DataStream, LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord

RECORDS = 2000


class PoisonError(Exception):
    pass


def poisoned(stage: int) -> Callable[[int], int]:
    """Return a map that cannot take 5 % of the records, others in each stage."""

    def work(record: int) -> int:
        if record % 20 == stage:
            raise PoisonError(record)
        return record

    return work


class PoisonedPool(AsyncMapFunction):
    """Works on a pool of threads, so that results come in any order."""

    def __init__(self, *, ordered: bool) -> None:
        self.ordered = ordered

    def setup(self) -> None:
        self.pool = ThreadPoolExecutor(8)

    def submit(self, record: int) -> Future[int]:
        return self.pool.submit(poisoned(2), record)

    def cleanup(self) -> None:
        self.pool.shutdown()


@pytest.mark.parametrize("ordered", [True, False])
def test_poison_in_every_operator_ends_in_the_dead_letters_and_all_else_in_the_output(
    *, ordered: bool
) -> None:
    letters: dict[str, list[FailedRecord]] = {name: [] for name in ("map", "async", "many", "sink")}
    out: list[int] = []

    def write(record: int) -> None:
        out.append(poisoned(4)(record))

    env = LocalEnvironment("poison")
    stream = env.from_collection(range(RECORDS))
    stream = stream.map(poisoned(1), parallelism=3, on_error=letters["map"].append)
    stream = stream.map(PoisonedPool, ordered=ordered, on_error=letters["async"].append)
    stream = stream.flatmap(lambda x: [poisoned(3)(x)], on_error=letters["many"].append)
    stream.sink(write, on_error=letters["sink"].append)
    env.submit()
    for stage, name in enumerate(letters, start=1):
        records = sorted(letter.record for letter in letters[name])
        assert records == list(range(stage, RECORDS, 20))
        assert {type(letter.error) for letter in letters[name]} == {PoisonError}
    assert sorted(out) == [x for x in range(RECORDS) if x % 20 not in (1, 2, 3, 4)]


def test_skipped_poison_is_missing_and_nothing_else_is(caplog: pytest.LogCaptureFixture) -> None:
    out: list[int] = []
    env = LocalEnvironment("poison")
    stream = env.from_collection(range(RECORDS)).map(poisoned(1), on_error="skip")
    stream.map(PoisonedPool, ordered=True, on_error="skip").sink(out.append)
    env.submit()
    assert out == [x for x in range(RECORDS) if x % 20 not in (1, 2)]
    assert len(caplog.records) == RECORDS // 10


@pytest.mark.parametrize("ordered", [True, False])
def test_the_first_poison_stops_the_run_and_what_came_out_before_it_is_whole(
    *, ordered: bool
) -> None:
    out: list[int] = []
    env = LocalEnvironment("poison")
    env.from_collection(range(RECORDS)).map(PoisonedPool, ordered=ordered).sink(out.append)
    with pytest.raises(PoisonError):
        env.submit()
    assert env.failure is not None
    assert env.failure.record % 20 == 2
    assert len(set(out)) == len(out)
    if ordered:
        assert out == [0, 1]


# -- what raises while others are busy --------------------------------------------------------


class Instant(AsyncMapFunction):
    def submit(self, record: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(record)
        return future


SHAPES: dict[str, Callable[[DataStream], DataStream]] = {
    "chain": lambda stream: stream.map(lambda x: x),
    "parallel": lambda stream: stream.map(lambda x: x, parallelism=3),
    "window": lambda stream: stream.map(Instant),
    "windows": lambda stream: stream.map(Instant, parallelism=2).map(Instant),
    "keyed": lambda stream: stream.keyby(hash).map(lambda x: x, parallelism=2),
}
every_shape = pytest.mark.parametrize("attach", SHAPES.values(), ids=SHAPES)


@every_shape
def test_a_sink_that_raises_ends_an_endless_run(
    attach: Callable[[DataStream], DataStream], threads_left: Callable[[str], list[str]]
) -> None:
    class Full(SinkFunction):
        written = 0
        flushed: list[int] = []  # noqa: RUF012 - read by the test

        def execute(self, record: int) -> None:
            if self.written == 100:
                raise OSError("no space left")
            self.written += 1

        def cleanup(self) -> None:
            self.flushed.append(self.written)

    env = LocalEnvironment("full", {"channel_capacity": 8})
    attach(env.from_source(count().__next__)).sink(Full, name="disk")
    with pytest.raises(OSError, match="no space left"):
        env.submit()
    assert env.failure is not None
    assert env.failure.operator == "disk"
    assert Full.flushed == [100]
    assert not threads_left("sage-full-")


@every_shape
def test_a_source_that_raises_ends_the_run_and_releases_what_it_holds(
    attach: Callable[[DataStream], DataStream], threads_left: Callable[[str], list[str]]
) -> None:
    released = []

    def source() -> Iterator[int]:
        try:
            yield from range(500)
            raise ConnectionResetError("the far end hung up")
        finally:
            released.append(True)

    out: list[int] = []
    env = LocalEnvironment("lost", {"channel_capacity": 8})
    attach(env.from_source(source, name="far")).sink(out.append)
    with pytest.raises(ConnectionResetError, match="the far end hung up"):
        env.submit()
    assert env.failure is not None
    assert (env.failure.operator, released) == ("far", [True])
    assert len(out) == len(set(out)) <= 500
    assert not threads_left("sage-lost-")


def test_a_flatmap_that_is_left_early_releases_what_it_holds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    released = []

    def explode(record: int) -> Iterator[int]:
        try:
            yield record
            yield record
        finally:
            released.append(record)
            raise OSError("cannot release")

    def check(record: int) -> None:
        assert released == []
        raise PoisonError(record)

    env = LocalEnvironment("flatmap")
    env.from_collection([7]).flatmap(explode).sink(check)
    with pytest.raises(PoisonError) as caught:  # and it is held, with its traceback
        env.submit()
    assert released == [7]
    assert caught.value.args == (7,)
    assert "a flatmap's generator that was left early could not be closed" in caplog.text


# -- memory ------------------------------------------------------------------------------------


class Record:
    """Knows how many of its kind are alive."""

    alive = 0
    most = 0
    lock = threading.Lock()

    def __init__(self, number: int) -> None:
        self.number = number
        with self.lock:
            Record.alive += 1
            Record.most = max(Record.most, Record.alive)

    def __del__(self) -> None:
        with self.lock:
            Record.alive -= 1


class FailsOften(AsyncMapFunction):
    """Fails on 5 % of the records in each of the three ways."""

    max_in_flight = 32

    def submit(self, record: Record) -> Future[Record]:
        if record.number % 20 == 1:
            raise PoisonError(record.number)
        future: Future[Record] = Future()
        if record.number % 20 == 2:
            future.set_exception(PoisonError(record.number))
        else:
            future.set_result(record)
        return future

    def complete(self, record: Record, result: Record) -> Record:
        if record.number % 20 == 3:
            raise PoisonError(record.number)
        return record


def fails_too(record: Record) -> list[Record]:
    if record.number % 20 == 4:
        raise PoisonError(record.number)
    return [record]


@pytest.mark.parametrize("records", [2_000, 20_000])
def test_the_records_alive_are_bounded_however_many_there_are(
    records: int, threads_left: Callable[[str], list[str]]
) -> None:
    Record.most = Record.alive = 0
    dropped: list[int] = []
    taken = 0
    pause = threading.Event()

    def slow(record: Record) -> None:
        nonlocal taken
        taken += 1
        if taken % 200 == 0:
            pause.wait(0.002)  # the source could run far ahead in it

    gc.disable()  # what only a collection frees would pile up between two of them
    try:
        env = LocalEnvironment("flat", {"channel_capacity": 16})
        stream = env.from_collection(Record(n) for n in range(records))
        stream = stream.map(lambda x: x, parallelism=2).map(FailsOften, on_error=_drop(dropped))
        stream = stream.flatmap(fails_too, on_error=_drop(dropped))
        stream.union(stream.filter(lambda _: False)).sink(slow)
        env.submit()
    finally:
        gc.enable()
    assert taken == records - len(dropped)
    assert len(dropped) == records // 5
    assert Record.most < 250
    del env, stream
    assert not threads_left("sage-flat-")  # one at its very end keeps the latest record
    gc.collect()
    assert Record.alive == 0


def _drop(dropped: list[int]) -> Callable[[FailedRecord], None]:
    return lambda failed: dropped.append(failed.record.number)
