from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sage.common.core.functions import (
    FilterFunction,
    FlatMapFunction,
    KeyByFunction,
    MapFunction,
    SinkFunction,
)
from sage.kernel.api import LocalEnvironment

pytestmark = pytest.mark.usefixtures("each_environment")


class Add(MapFunction):
    def __init__(self, amount: int) -> None:
        self.amount = amount

    def execute(self, record: int) -> int:
        return record + self.amount


class Multiples(FilterFunction):
    def __init__(self, *, of: int) -> None:
        self.of = of

    def execute(self, record: int) -> bool:
        return record % self.of == 0


class Repeat(FlatMapFunction):
    def execute(self, record: Any) -> Iterator[Any]:
        yield record
        yield record


class Parity(KeyByFunction):
    def execute(self, record: int) -> int:
        return record % 2


class Collect(SinkFunction):
    def __init__(self, into: list[Any]) -> None:
        self.into = into

    def execute(self, record: Any) -> None:
        self.into.append(record)


@pytest.fixture
def env() -> LocalEnvironment:
    return LocalEnvironment("streams")


def test_function_classes_of_every_kind_in_one_chain(env: LocalEnvironment) -> None:
    out: list[int] = []
    stream = env.from_collection(range(5)).map(Add, 10).filter(Multiples, of=2)
    stream.keyby(Parity).flatmap(Repeat).sink(Collect, out)
    env.submit()
    assert out == [10, 10, 12, 12, 14, 14]


def test_plain_callables_of_every_kind_with_bound_arguments(env: LocalEnvironment) -> None:
    out: list[int] = []
    stream = env.from_collection([3, 1, 2]).map(max, 2).filter(lambda x: x > 2)
    stream.keyby(hash).flatmap(lambda times, x: [x] * times, 2).sink(out.append)
    env.submit()
    assert out == [3, 3]


def test_a_chain_keeps_the_order_of_many_records(env: LocalEnvironment) -> None:
    out: list[int] = []
    env.from_collection(range(10_000)).map(str).map(int).sink(out.append)
    env.submit()
    assert out == list(range(10_000))


def test_records_may_be_none_or_false(env: LocalEnvironment) -> None:
    out: list[Any] = []
    env.from_collection([None, 0, "", False]).map(lambda x: x).sink(out.append)
    env.submit()
    assert out == [None, 0, "", False]


def test_sink_returns_the_stream_so_that_more_can_follow(env: LocalEnvironment) -> None:
    first: list[int] = []
    second: list[int] = []
    env.from_collection([1, 2]).sink(first.append).map(Add, 1).sink(second.append)
    env.submit()
    assert (first, second) == ([1, 2], [2, 3])


def test_a_stream_that_nobody_consumes_still_runs(env: LocalEnvironment) -> None:
    seen: list[int] = []
    env.from_collection([1, 2]).map(seen.append)
    env.submit()
    assert seen == [1, 2]


def test_union_merges_streams_and_keeps_the_order_of_each(env: LocalEnvironment) -> None:
    out: list[int] = []
    low = env.from_collection(range(1000))
    high = env.from_collection(range(1000, 2000)).map(Add, 0)
    third = env.from_collection([-1])
    low.union(high, third).sink(out.append)
    env.submit()
    assert sorted(out) == list(range(-1, 2000))
    assert [x for x in out if 0 <= x < 1000] == list(range(1000))
    assert [x for x in out if x >= 1000] == list(range(1000, 2000))


def test_union_of_a_stream_with_itself_doubles_it(env: LocalEnvironment) -> None:
    out: list[int] = []
    stream = env.from_collection([1, 2])
    stream.union(stream).sink(out.append)
    env.submit()
    assert sorted(out) == [1, 1, 2, 2]


def test_union_after_keyby_merges_records_without_their_keys(env: LocalEnvironment) -> None:
    out: list[int] = []
    keyed = env.from_collection([1, 2]).keyby(Parity)
    keyed.union(env.from_collection([3])).map(Add, 0, parallelism=2).sink(out.append)
    env.submit()
    assert sorted(out) == [1, 2, 3]


def test_diamond_gives_every_branch_every_record(env: LocalEnvironment) -> None:
    out: list[tuple[str, int]] = []
    source = env.from_collection(range(3000))
    left = source.map(lambda x: ("left", x), parallelism=2)
    right = source.filter(Multiples, of=3).map(lambda x: ("right", x))
    left.union(right).sink(out.append)
    env.submit()
    assert sorted(x for side, x in out if side == "left") == list(range(3000))
    assert [x for side, x in out if side == "right"] == list(range(0, 3000, 3))


def test_print_writes_a_line_per_record(
    env: LocalEnvironment, capsys: pytest.CaptureFixture[str]
) -> None:
    env.from_collection([1, "two"]).print().print("got")
    env.submit()
    assert sorted(capsys.readouterr().out.splitlines()) == ["1", "got 1", "got two", "two"]


def test_print_options_are_those_of_a_sink(env: LocalEnvironment) -> None:
    env.from_collection([1]).print(name="show")
    assert env.operators[-1].name == "show"
