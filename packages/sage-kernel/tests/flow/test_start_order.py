"""An asynchronous operator that chooses which record of its window starts next."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import pytest

from sage.common.core.errors import RecordTimeoutError, SageError
from sage.common.core.functions import AsyncMapFunction, StartOrder
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord


class Ascending(StartOrder):
    """By the records themselves, of 10 bytes each."""

    def __init__(self, window_bytes: int = 10_000, batches: int = 1_000) -> None:
        self.bytes = window_bytes
        self.window_batches = batches

    @property
    def window_bytes(self) -> int:
        return self.bytes

    def place(self, record: Any) -> tuple[Any, int]:
        return record, 10

    def metrics(self) -> Mapping[str, Any]:
        return {"order": "ascending"}


class Backend:
    """Where the work happens: notes what is started, completes the oldest on demand."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.open: list[Future[Any]] = []
        self.changed = threading.Condition()
        self.most = 0

    def submit(self, record: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self.changed:
            self.started.append(record)
            self.open.append(future)
            self.most = max(self.most, len(self.open))
            self.changed.notify_all()
        return future

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.started) >= count, timeout=10)

    def complete(self, count: int) -> None:
        """Complete so many, each when it is started."""
        for _ in range(count):
            with self.changed:
                assert self.changed.wait_for(lambda: self.open, timeout=10)
                future, index = self.open.pop(0), len(self.started) - len(self.open) - 1
            future.set_result(self.started[index])


class Remote(AsyncMapFunction):
    max_in_flight = 1

    def __init__(self, backend: Backend, order: StartOrder, **settings: Any) -> None:
        self.backend, self.order = backend, order
        for name, value in settings.items():
            setattr(self, name, value)

    def start_order(self) -> StartOrder:
        return self.order

    def submit(self, record: Any) -> Future[Any]:
        return self.backend.submit(record)


class Source:
    """Emits what it is fed, and counts what was taken."""

    def __init__(self, *records: Any) -> None:
        self.records: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.feed(*records)
        self.taken = 0

    def feed(self, *records: Any) -> None:
        for record in records:
            self.records.put(record)

    def emit(self) -> Iterator[Any]:
        while (record := self.records.get()) is not None:
            self.taken += 1
            yield record


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[LocalEnvironment, list[Any]]]]:
    """A function that starts a pipeline over a source; it is closed at the end."""
    envs = []

    def submit(
        source: Any, function: Any, *args: Any, on_error: Any = "raise", **settings: Any
    ) -> Any:
        env, out = LocalEnvironment("ordered"), []
        envs.append(env)
        stream = env.from_source(source.emit).map(
            function, *args, name="remote", on_error=on_error, **settings
        )
        stream.sink(out.append)
        env.submit(autostop=False)
        return env, out

    yield submit
    for env in envs:
        env.close()


def all_taken(source: Source, count: int) -> None:
    deadline = time.monotonic() + 10
    while source.taken < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("ordered", [True, False])
def test_records_start_in_the_order_and_leave_as_ever(start: Any, *, ordered: bool) -> None:
    backend, source = Backend(), Source(9)
    env, out = start(source, Remote, backend, Ascending(), ordered=ordered)
    backend.wait_for(1)
    source.feed(5, 3, 4, 1, 2, None)
    all_taken(source, 6)
    backend.complete(6)
    env.wait()
    assert backend.started == [9, 1, 2, 3, 4, 5]
    assert out == ([9, 5, 3, 4, 1, 2] if ordered else backend.started)
    metrics = env.metrics().operator("remote")
    assert metrics.overtaken == 3  # 5, 3 and 4; 1 came before none that was started
    assert metrics.start_order == ({"order": "ascending"},)


def test_the_window_is_as_wide_as_its_bytes_and_what_is_in_flight_no_more(start: Any) -> None:
    backend, source = Backend(), Source(*range(100, 0, -1), None)
    env, out = start(source, Remote, backend, Ascending(200), max_in_flight=3)
    backend.wait_for(3)
    all_taken(source, 21)  # 200 bytes, and the one that waits for room
    time.sleep(0.05)
    assert source.taken == 21
    metrics = env.metrics().operator("remote")
    assert (metrics.in_flight, metrics.waiting) == (3, 17)
    backend.complete(100)
    env.wait()
    assert backend.most == 3
    assert out == list(range(100, 0, -1))


def test_the_window_has_no_more_records_than_so_many_times_those_in_flight(start: Any) -> None:
    backend, source = Backend(), Source(*range(100, 0, -1), None)
    env, out = start(source, Remote, backend, Ascending(batches=4), max_in_flight=3)
    all_taken(source, 13)  # 12, and the one that waits for room
    time.sleep(0.05)
    assert source.taken == 13
    backend.complete(100)
    env.wait()
    assert out == list(range(100, 0, -1))


def test_what_waits_for_an_earlier_record_is_held_and_counts_for_the_time_left() -> None:
    backend, out = Backend(), []
    env = LocalEnvironment("held")
    stream = env.from_collection(range(10), name="read")
    stream.map(Remote, backend, Ascending(), max_in_flight=10, name="remote").sink(out.append)
    env.submit(autostop=False)
    backend.wait_for(10)
    for record, future in zip(backend.started, backend.open, strict=True):
        if record not in (0, 9):
            future.set_result(record)
    deadline = time.monotonic() + 10
    while (metrics := env.metrics()).operator("remote").held < 8:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    remote = metrics.operator("remote")
    assert (remote.records_out, remote.in_flight, remote.held, remote.finished) == (0, 2, 8, 8)
    assert (metrics.done, metrics.held) == (0, 8)
    assert metrics.time_left == pytest.approx(metrics.elapsed * 2 / 8)
    for record, future in zip(backend.started, backend.open, strict=True):
        if record in (0, 9):
            future.set_result(record)
    env.wait()
    env.close()
    assert out == list(range(10))
    assert (env.metrics().held, env.metrics().operator("remote").held) == (0, 0)


def test_a_window_of_no_bytes_is_as_without_an_order(start: Any) -> None:
    backend, source = Backend(), Source(*range(20, 0, -1), None)
    env, out = start(source, Remote, backend, Ascending(0), max_in_flight=4)
    backend.wait_for(4)
    all_taken(source, 5)
    time.sleep(0.05)
    assert source.taken == 5
    backend.complete(20)
    env.wait()
    assert out == list(range(20, 0, -1))


def test_who_comes_one_by_one_is_started_at_once(start: Any) -> None:
    backend, source = Backend(), Source()
    env, out = start(source, Remote, backend, Ascending(), max_in_flight=8)
    for number in range(8, 0, -1):
        source.feed(number)
        backend.wait_for(9 - number)
    assert backend.started == list(range(8, 0, -1))
    source.feed(None)
    backend.complete(8)
    env.wait()
    assert out == backend.started


def test_a_slow_sink_holds_up_neither_starts_nor_completions(start: Any) -> None:
    backend, source = Backend(), Source(*range(40), None)
    env = LocalEnvironment("slow sink")
    out: list[int] = []

    def slowly(record: int) -> None:
        time.sleep(0.005)
        out.append(record)

    env.from_source(source.emit).map(Remote, backend, Ascending(), max_in_flight=4).sink(slowly)
    env.submit(autostop=False)
    backend.wait_for(4)
    backend.complete(12)
    backend.wait_for(16)  # long before those 12 are written
    assert len(out) < 16
    backend.complete(28)
    env.wait()
    env.close()
    assert out == list(range(40))


def test_a_timeout_counts_from_the_start(start: Any) -> None:
    backend, source = Backend(), Source(*range(6), None)
    env, out = start(source, Remote, backend, Ascending(), timeout=3)
    for _ in range(6):
        time.sleep(0.6)  # 3.6 s in all
        backend.complete(1)
    env.wait()
    assert out == list(range(6))


def test_errors_retries_and_timeouts_are_each_records_own(start: Any) -> None:
    class BusyError(SageError):
        retryable = True

    class Faulty(Remote):
        retries, retry_backoff, timeout, max_in_flight = 1, 0.01, 1.0, 4

        def submit(self, record: Any) -> Future[Any]:
            self.backend.started.append(record)
            future: Future[Any] = Future()
            if record % 10 == 1:
                raise ValueError(record)
            if record % 10 == 2 and self.backend.started.count(record) == 1:
                future.set_exception(BusyError("later"))
            elif record % 10 == 3:
                future.set_exception(BusyError("never"))
            elif record % 10 != 4:
                future.set_result(record)
            return future

    letters: list[FailedRecord] = []
    source = Source(*range(39, -1, -1), None)
    env, out = start(source, Faulty, Backend(), Ascending(), on_error=letters.append)
    env.wait()
    assert out == [n for n in range(39, -1, -1) if n % 10 not in (1, 3, 4)]
    assert [letter.record for letter in letters] == [
        n for n in range(39, -1, -1) if n % 10 in (1, 3, 4)
    ]
    kinds = {letter.record % 10: (type(letter.error), letter.attempts) for letter in letters}
    assert kinds == {1: (ValueError, 1), 3: (BusyError, 2), 4: (RecordTimeoutError, 1)}
    metrics = env.metrics().operator("remote")
    assert (metrics.records_in, metrics.records_out, metrics.errors) == (40, 28, 12)
    assert metrics.retries == 8


def test_an_error_of_the_order_itself_stops_the_pipeline(start: Any) -> None:
    class Broken(Ascending):
        def place(self, record: Any) -> tuple[Any, int]:
            raise ZeroDivisionError(record)

    env, _ = start(Source(1, None), Remote, Backend(), Broken())
    with pytest.raises(ZeroDivisionError):
        env.wait()


@pytest.mark.parametrize("full", [True, False])
def test_closing_drops_what_waits_and_cancels_what_is_in_flight(start: Any, *, full: bool) -> None:
    backend, source = Backend(), Source(*range(50))
    env, out = start(source, Remote, backend, Ascending(100 if full else 10_000))
    backend.wait_for(1)
    all_taken(source, 11 if full else 50)
    source.feed(None)
    env.close()
    assert backend.started == [0]
    assert backend.open[0].cancelled()
    assert out == []


def test_replicas_have_orders_of_their_own() -> None:
    env = LocalEnvironment("replicas")
    backend, out = Backend(), []

    class Own(Remote):
        def start_order(self) -> StartOrder:
            return Ascending()

    stream = env.from_collection(range(60)).map(Own, backend, None, parallelism=3, name="remote")
    stream.sink(out.append)
    env.submit(autostop=False)
    backend.complete(60)
    env.wait()
    env.close()
    assert sorted(out) == list(range(60))
    assert env.metrics().operator("remote").start_order == ({"order": "ascending"},) * 3


class Holding(Ascending):
    """Holds what is done in a window that is not wide else."""

    held_batches = 3

    def __init__(self, held_bytes: int) -> None:
        super().__init__(0)
        self._held_bytes = held_bytes

    @property
    def held_bytes(self) -> int:
        return self._held_bytes


@pytest.mark.parametrize(("held_bytes", "started"), [(10_000, 12), (100, 10), (0, 4)])
def test_others_start_in_the_place_of_records_that_are_held(
    start: Any, held_bytes: int, started: int
) -> None:
    backend, source = Backend(), Source(*range(20), None)
    env, out = start(source, Remote, backend, Holding(held_bytes), max_in_flight=4)
    backend.wait_for(4)
    first, backend.open = backend.open[0], backend.open[1:]
    backend.complete(min(started, 11) - 1)
    backend.wait_for(started)
    all_taken(source, started + 1)  # and the one that waits for room
    time.sleep(0.05)
    assert (len(backend.started), source.taken, out) == (started, started + 1, [])
    metrics = env.metrics().operator("remote")
    assert metrics.in_flight + metrics.held == started
    first.set_result(0)
    backend.complete(20 - min(started, 11))
    env.wait()
    assert out == list(range(20))
    assert backend.most <= 4
