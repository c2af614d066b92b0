"""Which operators run in workers."""

from __future__ import annotations

from typing import Any

from sage.common.core.functions import AsyncMapFunction
from sage.kernel.api import LocalEnvironment
from sage.kernel.graph import FunctionSpec, Operator
from sage.kernel.graph.segment import Segment, expanded, segments


class Far(AsyncMapFunction):
    def submit(self, record: Any) -> Any:
        raise AssertionError


def shape(env: LocalEnvironment) -> list[Any]:
    def spec(operators: tuple[Operator, ...]) -> FunctionSpec:
        return FunctionSpec(kind="map", target=len, args=())

    found = segments(env.operators, spec)
    assert expanded(found) == env.operators
    return [
        [each.name for each in operator.operators]
        if isinstance(operator, Segment)
        else operator.name
        for operator in found
    ]


def described() -> Any:
    env = LocalEnvironment()
    return env, env.from_collection([1], name="source")


def test_a_chain_of_one_parallelism_runs_together() -> None:
    env, stream = described()
    stream = stream.map(abs, name="a", parallelism=2).filter(bool, name="b", parallelism=2)
    stream.flatmap(range, name="c", parallelism=3).map(abs, name="d").sink(print, name="sink")
    assert shape(env) == ["source", ["a", "b"], ["c"], "d", "sink"]


def test_what_keeps_many_in_flight_or_has_keys_stays() -> None:
    env, stream = described()
    stream = stream.map(Far, name="far", parallelism=2).keyby(abs, name="key")
    stream = stream.map(abs, name="by key", parallelism=2).map(abs, name="after", parallelism=2)
    stream.sink(print, name="sink", parallelism=2)
    assert shape(env) == ["source", "far", "key", "by key", ["after"], "sink"]


def test_a_chain_ends_where_its_stream_goes_two_ways() -> None:
    env, stream = described()
    both = stream.map(abs, name="a", parallelism=2)
    both.map(abs, name="b", parallelism=2).sink(print, name="one")
    both.map(abs, name="c", parallelism=2).sink(print, name="two")
    assert shape(env) == ["source", ["a"], ["b"], "one", ["c"], "two"]


def test_a_union_feeds_a_chain() -> None:
    env, stream = described()
    other = env.from_collection([2], name="other")
    merged = stream.union(other).map(abs, name="a", parallelism=2)
    merged.sink(print, name="sink")
    assert shape(env) == ["source", "other", "union", ["a"], "sink"]
