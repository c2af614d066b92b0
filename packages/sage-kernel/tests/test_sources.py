from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import partial
from typing import Any

import pytest

from sage.common.core.functions import BatchFunction, MapFunction, SourceFunction, StopSignal
from sage.kernel.api import DataStream, LocalEnvironment

pytestmark = pytest.mark.usefixtures("each_environment")


class Countdown(SourceFunction):
    def __init__(self, start: int) -> None:
        self.left = start

    def execute(self) -> Any:
        self.left -= 1
        return self.left if self.left >= 0 else StopSignal("done")


class Batch(BatchFunction):
    def __init__(self, *items: Any) -> None:
        self.items = iter(items)

    def execute(self) -> Any:
        return next(self.items, None)


def letters(count: int, *, upper: bool = False) -> Iterator[str]:
    for letter in "abcdef"[:count]:
        yield letter.upper() if upper else letter


def run(env: LocalEnvironment, stream: DataStream) -> list[Any]:
    out: list[Any] = []
    stream.sink(out.append)
    env.submit()
    return out


@pytest.fixture
def env() -> LocalEnvironment:
    return LocalEnvironment("sources")


def test_source_function_ends_at_its_stop_signal(env: LocalEnvironment) -> None:
    assert run(env, env.from_source(Countdown, 3)) == [2, 1, 0]


class Returning(SourceFunction):
    def __init__(self, *items: Any) -> None:
        self.items = iter(items)

    def execute(self) -> Any:
        return next(self.items, None)


class WithNone(Returning):
    none_is_record = True


def test_source_function_may_emit_none_if_it_says_so(env: LocalEnvironment) -> None:
    stop = StopSignal()
    assert run(env, env.from_source(WithNone, None, 1, None, stop)) == [None, 1, None]


def test_items_of_a_collection_may_be_none(env: LocalEnvironment) -> None:
    assert run(env, env.from_collection([None, 1, None])) == [None, 1, None]


@pytest.mark.parametrize("how", ["class", "callable"])
def test_none_from_a_source_is_an_error_that_names_the_stop_signal(
    env: LocalEnvironment, how: str
) -> None:
    items = iter([1])
    source = (Returning, 1) if how == "class" else (lambda: next(items, None),)
    out: list[Any] = []
    env.from_source(*source, name="poll").sink(out.append)
    with pytest.raises(TypeError, match="returned None, which is no record; return a StopSignal"):
        env.submit()
    assert out == [1]
    assert env.failure is not None
    assert env.failure.operator == "poll"


def test_batch_function_ends_at_none_or_a_stop_signal(env: LocalEnvironment) -> None:
    assert run(env, env.from_batch(Batch, 1, 2, None, 3)) == [1, 2]
    other = LocalEnvironment("other")
    assert run(other, other.from_batch(Batch, 1, StopSignal(), 3)) == [1]


def test_generator_function_with_its_arguments(env: LocalEnvironment) -> None:
    stream = env.from_source(letters, 3, upper=True)
    assert stream.operator.name == "letters"
    assert run(env, stream) == ["A", "B", "C"]


def test_generator_function_with_some_of_its_arguments_bound(env: LocalEnvironment) -> None:
    stream = env.from_source(partial(letters, 3), upper=True)
    assert stream.operator.name == "letters"
    assert run(env, stream) == ["A", "B", "C"]


class Colour(Enum):
    RED = 1
    BLUE = 2


class Items(list[int]):
    """A collection that can be called."""

    def __call__(self) -> list[int]:
        raise AssertionError("it is to be iterated")


def test_a_collection_that_can_be_called_is_iterated() -> None:
    for collection in (Colour, Items([1, 2])):
        env = LocalEnvironment("sources")
        assert run(env, env.from_collection(collection)) == list(collection)


@pytest.mark.parametrize("kind", [list, tuple, dict.fromkeys, iter, range])
def test_any_iterable_is_a_collection(env: LocalEnvironment, kind: Any) -> None:
    records = range(1, 3) if kind is range else kind([1, 2])
    assert run(env, env.from_collection(records, name="numbers")) == [1, 2]


def test_from_batch_takes_a_collection_too(env: LocalEnvironment) -> None:
    assert run(env, env.from_batch([1, 2])) == [1, 2]


def test_an_empty_source_ends_the_pipeline(env: LocalEnvironment) -> None:
    assert run(env, env.from_collection([]).map(str, parallelism=2)) == []


@pytest.mark.parametrize("records", ["text", b"bytes", 7, None])
def test_what_is_no_collection_of_records_is_refused(env: LocalEnvironment, records: Any) -> None:
    with pytest.raises(TypeError, match="takes an iterable of records, not"):
        env.from_collection(records)


@pytest.mark.parametrize("source", [int, Countdown(1), 7])
def test_what_is_no_source_is_refused(env: LocalEnvironment, source: Any) -> None:
    with pytest.raises(TypeError, match="source"):
        env.from_source(source)


def test_a_class_of_another_kind_is_refused_with_its_method(env: LocalEnvironment) -> None:
    class Upper(MapFunction):
        def execute(self, record: str) -> str:
            return record.upper()

    with pytest.raises(TypeError, match=r"SourceFunction or BatchFunction.*Upper.*use map\(\)"):
        env.from_source(Upper)


def test_a_generator_that_the_pipeline_leaves_early_releases_what_it_holds(
    env: LocalEnvironment,
) -> None:
    released = []

    def source() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            released.append(True)

    env.from_source(source).sink(lambda x: 1 / (10 - x))
    with pytest.raises(ZeroDivisionError):
        env.submit()
    assert released == [True]


def test_a_source_that_raises_stops_the_pipeline(env: LocalEnvironment) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    out: list[int] = []
    env.from_source(source, name="disk").map(str, parallelism=2).sink(out.append)
    with pytest.raises(OSError, match="the disk is gone") as caught:
        env.submit()
    assert caught.value.__notes__ == ["in source 'disk'"]
    assert env.failure is not None
    assert (env.failure.operator, env.failure.error) == ("disk", caught.value)
