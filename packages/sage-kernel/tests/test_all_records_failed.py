"""Runs in which an operator loses every record: a failure, whatever on_error says."""

from __future__ import annotations

import logging
import pickle
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from sage.common.core.functions import AsyncMapFunction, UnreadableRecord
from sage.kernel.api import AllRecordsFailedError, CollectSink, LocalEnvironment

pytestmark = pytest.mark.usefixtures("each_environment")


def txt(record: dict[str, Any]) -> Any:
    return record["txt"]


class Txt(AsyncMapFunction):
    def submit(self, record: dict[str, Any]) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(record["txt"])
        return future


RECORDS = [{"text": n} for n in range(12)]


@pytest.mark.parametrize("function", [txt, Txt])
@pytest.mark.parametrize("letters", [False, True])
def test_a_run_that_loses_all_its_records_fails(function: Any, letters: bool) -> None:  # noqa: FBT001
    failed: list[Any] = []
    env = LocalEnvironment("typo")
    on_error = partial(CollectSink, failed) if letters else "skip"
    stream = env.from_collection(RECORDS).map(function, name="clean", on_error=on_error)
    stream.sink(print)
    with pytest.raises(AllRecordsFailedError) as caught:
        env.submit()
    error = caught.value
    assert str(error) == "all 12 records failed in operator 'clean', the first with KeyError: 'txt'"
    assert (error.operator, error.count, type(error.first)) == ("clean", 12, KeyError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert len(failed) == (12 if letters else 0)
    assert env.failure is not None
    assert env.failure.error is error
    assert env.metrics().state == "failed"


def test_a_sink_and_a_source_can_lose_all_of_them_too() -> None:
    env = LocalEnvironment("sink")
    env.from_collection(RECORDS).sink(txt, name="write", on_error="skip")
    with pytest.raises(AllRecordsFailedError, match="operator 'write'"):
        env.submit()

    def lines() -> Any:
        for number in range(10):
            yield UnreadableRecord(record=number, error=ValueError("no JSON"))

    env = LocalEnvironment("source")
    env.from_source(lines, on_error="skip").sink(print)
    with pytest.raises(AllRecordsFailedError, match="all 10 records failed in operator 'lines'"):
        env.submit()


@pytest.mark.parametrize(
    "records",
    [
        [*RECORDS, {"txt": 1}],
        [{"txt": 1}, *RECORDS],
        [],
    ],
)
def test_one_record_that_passes_is_enough(
    records: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    env = LocalEnvironment("some")
    with caplog.at_level(logging.CRITICAL, logger="sage.kernel.runtime.flow"):
        out = env.from_collection(records).map(txt, on_error="skip").collect()
    assert out == [1][: len(records)]
    assert "all" not in caplog.text


def test_fewer_than_ten_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    failed: list[Any] = []
    env = LocalEnvironment("few")
    out = env.from_collection(RECORDS[:9]).map(txt, on_error=failed.append).collect()
    assert (out, len(failed), env.metrics().state) == ([], 9, "ended")
    (record,) = caplog.records
    assert record.getMessage() == (
        "pipeline 'few': all 9 records failed in operator 'txt', the first with KeyError: 'txt'"
    )


def test_an_error_that_stops_the_run_is_the_one_that_is_raised() -> None:
    def fail_at_the_end() -> Any:
        yield from RECORDS
        raise OSError("the disk is gone")

    env = LocalEnvironment("both")
    env.from_source(fail_at_the_end).map(txt, on_error="skip").sink(print)
    with pytest.raises(OSError, match="the disk is gone"):
        env.submit()
