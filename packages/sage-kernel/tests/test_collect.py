"""collect() and CollectSink: a stream's records as a list."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import pytest

from sage.common.core.functions import MapFunction
from sage.kernel.api import BaseService, CollectSink, FailedRecord, LocalEnvironment

pytestmark = pytest.mark.usefixtures("each_environment")


class Doubles(BaseService):
    def process(self, payload: Any) -> Any:
        return 2 * payload


class Double(MapFunction):
    def execute(self, record: Any) -> Any:
        return self.call_service("doubles", record)


def test_it_runs_the_pipeline_and_returns_the_records_in_order() -> None:
    seen: list[int] = []
    with LocalEnvironment() as env:
        env.register_service("doubles", Doubles)
        numbers = env.from_collection(range(500))
        numbers.sink(seen.append)
        doubled = numbers.map(Double)
        assert doubled.filter(lambda n: n % 4 == 0).collect() == list(range(0, 1000, 4))
    assert seen == list(range(500))


def test_a_union_and_a_stream_of_nothing_can_be_collected() -> None:
    with LocalEnvironment() as env:
        one, other = env.from_collection([1]), env.from_collection([2])
        assert sorted(one.union(other).collect()) == [1, 2]
    records = LocalEnvironment().from_collection([]).collect()
    assert records == []
    assert "0 records" in records._repr_html_()
    assert pickle.loads(pickle.dumps(records)) == records


def test_it_raises_what_stopped_the_run() -> None:
    env = LocalEnvironment()
    with pytest.raises(ZeroDivisionError) as caught:
        env.from_collection([1, 0]).map(lambda n: 1 // n, name="divide").collect()
    assert "'divide'" in str(caught.value.__notes__)
    with pytest.raises(RuntimeError, match="submitted already; make a new one"):
        env.from_collection([1]).collect()


def test_a_collect_sink_takes_records_and_dead_letters() -> None:
    records: list[Any] = []
    failed: list[FailedRecord] = []
    with LocalEnvironment() as env:
        halves = env.from_collection([2, 0, 1]).map(
            lambda n: 2 // n, on_error=partial(CollectSink, failed), parallelism=1
        )
        halves.sink(CollectSink, records)
        env.submit()
    assert records == [1, 2]
    assert [each.record for each in failed] == [0]


def test_a_collect_sink_of_no_list_is_refused() -> None:
    with LocalEnvironment() as env:
        env.from_collection([1]).sink(CollectSink, "records")
        with pytest.raises(TypeError, match="takes the list to append to, not 'records'"):
            env.submit()
