"""A slow consumer bounds how far a source runs ahead, whatever lies between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from sage.common.core.functions import AsyncMapFunction
from sage.kernel.api import DataStream, LocalEnvironment

RECORDS = 3000
CAPACITY = 8
WINDOW = 5


class Instant(AsyncMapFunction):
    max_in_flight = WINDOW

    def submit(self, record: int) -> Future[int]:
        future: Future[int] = Future()
        future.set_result(record)
        return future


SHAPES: dict[str, tuple[Callable[[DataStream], DataStream], int]] = {
    # A channel holds its capacity, and as much again may be with the thread that reads it.
    "chain": (lambda stream: stream.map(lambda x: x), 2),
    "channel": (lambda stream: stream.union(stream.filter(lambda _: False)), 2 * CAPACITY + 2),
    "parallel": (lambda stream: stream.map(lambda x: x, parallelism=2), 3 * CAPACITY + 4),
    "keyed": (
        lambda stream: stream.keyby(lambda x: x % 2).map(lambda x: x, parallelism=2),
        6 * CAPACITY + 4,
    ),
    "window": (lambda stream: stream.map(Instant), WINDOW + 2),
    "windows": (lambda stream: stream.map(Instant).map(Instant), 2 * WINDOW + 3),
}


@pytest.mark.parametrize(("attach", "bound"), SHAPES.values(), ids=SHAPES)
def test_the_source_runs_ahead_no_further_than_the_bounds(
    attach: Callable[[DataStream], DataStream], bound: int
) -> None:
    produced = 0
    consumed = 0
    furthest = 0
    pause = threading.Event()

    def source() -> Iterator[int]:
        nonlocal produced
        for record in range(RECORDS):
            produced += 1
            yield record

    def sink(_: int) -> None:
        nonlocal consumed, furthest
        if consumed < 20:
            pause.wait(0.005)  # long enough for the source to run away, if it could
        consumed += 1
        furthest = max(furthest, produced - consumed)

    env = LocalEnvironment("bounded", {"channel_capacity": CAPACITY})
    attach(env.from_source(source)).sink(sink)
    env.submit()
    assert consumed == RECORDS
    assert furthest <= bound


def test_a_flatmap_of_one_record_into_endlessly_many_is_bounded_too() -> None:
    produced = consumed = furthest = 0
    pause = threading.Event()
    enough = threading.Event()

    def endless(_: int) -> Iterator[int]:
        nonlocal produced
        while True:
            produced += 1
            yield produced

    def sink(_: int) -> None:
        nonlocal consumed, furthest
        if consumed < 20:
            pause.wait(0.005)  # long enough for the flatmap to run away, if it could
        else:
            enough.set()
        consumed += 1  # not the record's number: parallel replicas overtake each other
        furthest = max(furthest, produced - consumed)

    with LocalEnvironment("endless", {"channel_capacity": CAPACITY}) as env:
        stream = env.from_collection([0]).flatmap(endless)
        stream.map(lambda x: x, parallelism=2).union(stream.filter(lambda _: False)).sink(sink)
        env.submit(autostop=False)
        assert enough.wait(60)
    assert furthest <= 3 * CAPACITY + 4
