"""How far a run is, where its sources know their length."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sage.common.core.functions import BatchFunction, SourceFunction, StopSignal
from sage.kernel.api import DataStream, LocalEnvironment


class Counting(SourceFunction):
    def __init__(self, count: int) -> None:
        self.count = count
        self.next = 0

    def __len__(self) -> int:
        return self.count

    def execute(self) -> Any:
        self.next += 1
        return self.next - 1 if self.next <= self.count else StopSignal()


class Batch(BatchFunction):
    def __init__(self) -> None:
        self.items = iter([1, 2, 3])

    def __len__(self) -> int:
        return 3

    def execute(self) -> Any:
        return next(self.items, None)


class Unwilling(Counting):
    def __len__(self) -> int:
        raise NotImplementedError("it takes an hour to count them")


def generator() -> Iterator[int]:
    yield from range(3)


SOURCES: dict[str, tuple[Callable[[LocalEnvironment], DataStream], int | None]] = {
    "list": (lambda env: env.from_collection([1, 2, 3]), 3),
    "range": (lambda env: env.from_collection(range(3)), 3),
    "dict": (lambda env: env.from_batch({1: 1, 2: 2}), 2),
    "empty": (lambda env: env.from_collection([]), 0),
    "source function": (lambda env: env.from_source(Counting, 5), 5),
    "batch function": (lambda env: env.from_batch(Batch), 3),
    "generator": (lambda env: env.from_collection(generator()), None),
    "generator function": (lambda env: env.from_source(generator), None),
    "callable": (lambda env: env.from_source(iter([1, StopSignal()]).__next__), None),
    "unwilling": (lambda env: env.from_source(Unwilling, 3), None),
    "two": (lambda env: env.from_collection([1]).union(env.from_source(Counting, 4)), 5),
    "one unknown": (lambda env: env.from_collection([1]).union(env.from_source(generator)), None),
}


@pytest.mark.parametrize(("attach", "length"), SOURCES.values(), ids=SOURCES)
def test_a_length_is_known_where_a_source_tells_it(
    attach: Callable[[LocalEnvironment], DataStream], length: int | None
) -> None:
    env = LocalEnvironment("lengths")
    attach(env).sink(lambda _: None)
    env.submit()
    metrics = env.metrics()
    read = sum(o.records_out for o in metrics.operators if o.kind == "source")
    assert metrics.length == length
    assert metrics.done == read
    assert length in (None, read)


class Paused:
    """A sink that stops at one record until it is told to go on."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self, record: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.reached.set()
            assert self.go_on.wait(10)


SHAPES: dict[str, tuple[Callable[[DataStream], DataStream], int]] = {
    "chain": (lambda stream: stream.map(abs), 500),
    "filter": (lambda stream: stream.filter(lambda x: x % 2 == 0), 250),
    "flatmap": (lambda stream: stream.flatmap(lambda x: [x] * 10), 5000),
    "channel": (lambda stream: stream.map(abs, parallelism=2), 500),
    "flatmap, channel": (lambda s: s.flatmap(lambda x: [x] * 10).map(abs, parallelism=2), 5000),
    "diamond": (lambda stream: stream.map(abs).union(stream.map(abs)), 1000),
}


@pytest.mark.parametrize(("attach", "pause_at"), SHAPES.values(), ids=SHAPES)
def test_half_way_through_half_is_done_and_as_much_time_is_left(
    attach: Callable[[DataStream], DataStream], pause_at: int
) -> None:
    sink = Paused(pause_at)
    env = LocalEnvironment("half", {"channel_capacity": 64})
    attach(env.from_collection(range(1000))).sink(sink)
    env.submit(autostop=False)
    assert sink.reached.wait(10)
    metrics = env.metrics()
    assert metrics.done == pytest.approx(500, abs=70)
    assert metrics.time_left == pytest.approx(
        metrics.elapsed * (1000 - metrics.done) / metrics.done
    )
    sink.go_on.set()
    env.wait()
    assert (env.metrics().done, env.metrics().time_left) == (1000, None)
    env.close()


def test_a_resumed_run_counts_what_is_left(tmp_path: Path) -> None:
    def run(sink: Callable[[int], Any]) -> LocalEnvironment:
        env = LocalEnvironment("resumed")
        env.from_collection(range(100), name="read").sink(sink, name="write")
        with suppress(ZeroDivisionError):
            env.submit(checkpoint=tmp_path)
        return env

    first = run(lambda record: 1 / (60 - record)).metrics()
    assert (first.length, first.operator("read").records_out) == (100, 61)
    second = run(lambda record: 1).metrics()
    assert (second.length, second.done) == (40, 40)
    assert second.operator("write").records_out == 40
    third = run(lambda record: 1).metrics()
    assert (third.state, third.operators) == ("ended", ())
