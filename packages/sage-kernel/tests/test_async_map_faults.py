"""Timeouts, retries, errors and cancellation of asynchronous operators."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from itertools import pairwise
from typing import Any

import pytest

from sage.common.core.errors import RecordTimeoutError, SageError
from sage.common.core.functions import AsyncMapFunction
from sage.kernel.api import AllRecordsFailedError, LocalEnvironment
from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.failed_record import FailedRecord

pytestmark = pytest.mark.usefixtures("each_environment")


class Flaky(SageError):  # noqa: N818 - it passes
    retryable = True


def done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


class Never(AsyncMapFunction):
    """Completes no record but those that it is told to."""

    def __init__(self, futures: list[Future[Any]], *, answers: Any = (), **settings: Any) -> None:
        self.futures = futures
        self.answers = answers
        for name, value in settings.items():
            setattr(self, name, value)

    def submit(self, record: Any) -> Future[Any]:
        future: Future[Any] = done(record) if record in self.answers else Future()
        self.futures.append(future)
        return future


def submitted(records: Any, function: Any, *args: Any, **settings: Any) -> LocalEnvironment:
    env = LocalEnvironment("faults")
    env.from_collection(records).map(function, *args, **settings)
    return env


# -- timeout ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("window", [1, 2, 64])
def test_a_record_that_takes_too_long_is_cancelled_and_raises(
    *, ordered: bool, window: int
) -> None:
    futures: list[Future[Any]] = []
    env = submitted(
        range(200), Never, futures, timeout=0.05, ordered=ordered, max_in_flight=window, name="slow"
    )
    with pytest.raises(RecordTimeoutError, match=r"operator 'slow' had no result within 0\.05 s"):
        env.submit()
    assert all(future.cancelled() for future in futures)
    assert env.failure is not None
    assert env.failure.record == 0


def test_records_that_time_out_can_be_skipped_and_the_others_go_on() -> None:
    futures: list[Future[Any]] = []
    letters: list[FailedRecord] = []
    out: list[int] = []
    env = LocalEnvironment("faults")
    stream = env.from_collection(range(10)).map(
        Never, futures, answers=range(1, 10, 2), timeout=0.05, on_error=letters.append
    )
    stream.sink(out.append)
    env.submit()
    assert out == [1, 3, 5, 7, 9]
    assert [letter.record for letter in letters] == [0, 2, 4, 6, 8]
    assert all(isinstance(letter.error, RecordTimeoutError) for letter in letters)
    assert all(future.cancelled() for future in futures[::2])


def test_a_record_times_out_although_the_source_brings_no_other() -> None:
    futures: list[Future[Any]] = []
    timed_out = threading.Event()
    end = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        assert end.wait(10)

    env = LocalEnvironment("faults")
    env.from_source(source).map(Never, futures, timeout=0.05, on_error=lambda _: timed_out.set())
    env.submit(autostop=False)
    assert timed_out.wait(10)
    end.set()
    env.stop()


def test_a_future_that_comes_after_its_timeout_is_cancelled_too() -> None:
    given_up = threading.Event()
    late: Future[Any] = Future()

    class Slow(AsyncMapFunction):
        timeout = 0.05

        def submit(self, record: Any) -> Future[Any]:
            assert given_up.wait(10)
            return late

    env = LocalEnvironment("faults")
    env.from_collection([1]).map(Slow, on_error=lambda _: given_up.set())
    env.submit()
    assert late.cancelled()


def test_a_future_that_is_running_and_cannot_be_cancelled_times_out_all_the_same() -> None:
    class Busy(AsyncMapFunction):
        timeout = 0.05

        def submit(self, record: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_running_or_notify_cancel()
            return future

    with pytest.raises(RecordTimeoutError):
        submitted([1], Busy).submit()


def test_results_in_time_are_kept_however_slow_the_sink_is() -> None:
    pause = threading.Event()
    out: list[int] = []

    def slow_sink(record: int) -> None:
        pause.wait(0.05)  # each record outlasts the timeout of all that wait behind it
        out.append(record)

    env = LocalEnvironment("slow-sink")
    stream = env.from_collection(range(20)).map(
        Never, [], answers=range(20), timeout=0.02, max_in_flight=20
    )
    stream.sink(slow_sink)
    env.submit()
    assert out == list(range(20))


def test_the_timeout_covers_the_retries() -> None:
    class AlwaysFlaky(AsyncMapFunction):
        timeout = 1.0
        retries = 1000
        retry_backoff = 0.03

        def submit(self, record: Any) -> Future[Any]:
            raise Flaky("not yet")

    env = submitted([1], AlwaysFlaky)
    with pytest.raises(RecordTimeoutError):
        env.submit()
    assert env.failure is not None
    assert 1 < env.failure.attempts < 13  # as the pauses double; more by chance: one in 10**10


# -- retries ----------------------------------------------------------------------------------


class FailsTimes(AsyncMapFunction):
    """Fails the first ``times`` attempts at each record with ``error``."""

    def __init__(self, times: int, error: type[Exception], **settings: Any) -> None:
        self.times, self.error = times, error
        self.attempts: Counter[Any] = Counter()
        self.retry_backoff = 0.001
        for name, value in settings.items():
            setattr(self, name, value)

    def submit(self, record: Any) -> Future[Any]:
        self.attempts[record] += 1
        future: Future[Any] = Future()
        if self.attempts[record] <= self.times:
            future.set_exception(self.error(f"attempt {self.attempts[record]}"))
        else:
            future.set_result((record, self.attempts[record]))
        return future


@pytest.mark.parametrize("ordered", [True, False])
def test_retryable_errors_are_tried_again(*, ordered: bool) -> None:
    env = LocalEnvironment("retry")
    out: list[tuple[int, int]] = []
    stream = env.from_collection(range(200)).map(
        FailsTimes, 2, Flaky, retries=2, max_in_flight=50, ordered=ordered
    )
    stream.sink(out.append)
    env.submit()
    assert sorted(out) == [(x, 3) for x in range(200)]
    if ordered:
        assert out == sorted(out)


def test_the_last_error_is_raised_with_the_number_of_attempts() -> None:
    env = submitted([5], FailsTimes, 9, Flaky, retries=3, name="flaky")
    with pytest.raises(Flaky, match="attempt 4") as caught:
        env.submit()
    assert caught.value.__notes__ == ["in operator 'flaky' on record 5 after 4 attempts"]
    assert env.failure is not None
    assert env.failure.attempts == 4


def test_other_errors_are_not_tried_again() -> None:
    env = submitted([5], FailsTimes, 1, ValueError, retries=3)
    with pytest.raises(ValueError, match="attempt 1"):
        env.submit()
    assert env.failure is not None
    assert env.failure.attempts == 1


def test_dead_letters_count_the_attempts() -> None:
    letters: list[FailedRecord] = []
    submitted([1, 2], FailsTimes, 9, Flaky, retries=2, on_error=letters.append).submit()
    assert [(letter.record, letter.attempts) for letter in letters] == [(1, 3), (2, 3)]


def test_retries_spread_over_a_time_that_doubles_up_to_a_cap(
    held_up: Callable[[], float],
) -> None:
    times: defaultdict[int, list[float]] = defaultdict(list)

    class Timed(AsyncMapFunction):
        retries = 5
        retry_backoff = 0.1
        retry_backoff_max = 0.25
        max_in_flight = 100

        def submit(self, record: Any) -> Future[Any]:
            times[record].append(time.monotonic())
            raise Flaky("not yet")

    with pytest.raises(AllRecordsFailedError):
        submitted(range(100), Timed, on_error=lambda letter: None).submit()
    pauses = [[after - before for before, after in pairwise(one)] for one in times.values()]
    for number, most in enumerate([0.1, 0.2, 0.25, 0.25, 0.25]):
        those = [one[number] for one in pauses]
        assert len(those) == 100
        assert all(pause < most + 0.2 + held_up() for pause in those)
        assert sum(pause < most / 2 for pause in those) > 10  # by chance: one in 10**18
        assert max(those) > most / 2


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [None, 7, "text"])
def test_submit_must_return_a_future(result: Any) -> None:
    class NoFuture(AsyncMapFunction):
        def submit(self, record: Any) -> Any:
            return result

    with pytest.raises(TypeError, match=rf"NoFuture.submit\(\) must return .*not {result!r}"):
        submitted([1], NoFuture).submit()


def test_a_future_that_the_backend_cancelled_is_the_records_error() -> None:
    class Gone(AsyncMapFunction):
        def submit(self, record: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.cancel()
            return future

    env = submitted([1], Gone)
    with pytest.raises(CancelledError):
        env.submit()
    assert env.failure is not None
    assert env.failure.record == 1


# -- cancellation -----------------------------------------------------------------------------


def test_a_failure_cancels_all_that_is_in_flight() -> None:
    futures: list[Future[Any]] = []

    class FailsAtTen(Never):
        def submit(self, record: Any) -> Future[Any]:
            if record == 10:
                raise ValueError("ten")
            return super().submit(record)

    env = submitted(range(1000), FailsAtTen, futures, ordered=False)
    with pytest.raises(ValueError, match="ten"):
        env.submit()
    assert len(futures) >= 10
    assert all(future.cancelled() for future in futures)


def test_a_failure_behind_the_window_cancels_it_too() -> None:
    futures: list[Future[Any]] = []
    env = LocalEnvironment("faults")
    stream = env.from_collection(range(1000)).map(Never, futures, answers=[0])
    stream.map(lambda x: 1 / x)
    with pytest.raises(ZeroDivisionError):
        env.submit()
    assert all(future.cancelled() for future in futures[1:])


def test_closing_from_another_thread_cancels_all_that_is_in_flight() -> None:
    futures: list[Future[Any]] = []
    full = threading.Event()

    class Filling(Never):
        max_in_flight = 32

        def submit(self, record: Any) -> Future[Any]:
            future = super().submit(record)
            if len(futures) == 32:
                full.set()
            return future

    env = submitted(range(1000), Filling, futures)

    def close() -> None:
        assert full.wait(10)
        env.close()

    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(PipelineCancelledError, match="'faults' was closed before its end"):
        env.submit()
    closer.join(10)
    assert len(futures) == 32
    assert all(future.cancelled() for future in futures)
    assert env.failure is None
