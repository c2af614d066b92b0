"""Order, window, capacity and threads of asynchronous operators."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import Any

import pytest

from sage.common.core.functions import AsyncMapFunction
from sage.common.service import BaseService
from sage.kernel.api import LocalEnvironment

pytestmark = pytest.mark.usefixtures("each_environment")


class Backend:
    """Where the work of an async map happens: keeps what is in flight, completes it on demand."""

    def __init__(self) -> None:
        self.in_flight: deque[tuple[Any, Future[Any]]] = deque()
        self.most = 0
        self.arrived = threading.Condition()

    def submit(self, record: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self.arrived:
            self.in_flight.append((record, future))
            self.most = max(self.most, len(self.in_flight))
            self.arrived.notify_all()
        return future

    def wait_for(self, count: int) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.in_flight) >= count, timeout=10)

    def complete(self, *, newest: bool = False) -> None:
        with self.arrived:
            record, future = self.in_flight.pop() if newest else self.in_flight.popleft()
        future.set_result(record)

    def complete_in_background(self, count: int, *, newest: bool = False) -> threading.Thread:
        def run() -> None:
            for _ in range(count):
                self.wait_for(1)
                self.complete(newest=newest)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


class Remote(AsyncMapFunction):
    def __init__(self, backend: Backend, **settings: Any) -> None:
        self.backend = backend
        for name, value in settings.items():
            setattr(self, name, value)

    def submit(self, record: Any) -> Future[Any]:
        return self.backend.submit(record)


class Submitted:
    """A pipeline that runs while the test decides what completes."""

    def __init__(self, records: Any, backend: Backend, **settings: Any) -> None:
        self.env = LocalEnvironment("async")
        self.out: list[Any] = []
        self.emitted = threading.Semaphore(0)

        def sink(record: Any) -> None:
            self.out.append(record)
            self.emitted.release()

        self.env.from_collection(records).map(Remote, backend, **settings).sink(sink)
        self.env.submit(autostop=False)

    def wait_for_output(self, count: int) -> list[Any]:
        for _ in range(count):
            assert self.emitted.acquire(timeout=10)
        return self.out


def test_results_come_in_input_order_by_default() -> None:
    backend = Backend()
    run = Submitted(range(4), backend)
    backend.wait_for(4)
    for _ in range(4):
        assert run.out == []
        backend.complete(newest=True)
    run.env.wait()
    assert run.out == [0, 1, 2, 3]
    run.env.close()


def test_unordered_results_come_as_they_are_completed() -> None:
    backend = Backend()
    run = Submitted(range(4), backend, ordered=False)
    backend.wait_for(4)
    backend.complete(newest=True)
    assert run.wait_for_output(1) == [3]
    backend.complete()
    assert run.wait_for_output(1) == [3, 0]
    backend.complete()
    backend.complete()
    run.env.wait()
    assert sorted(run.out) == [0, 1, 2, 3]
    run.env.close()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("newest", [True, False])
def test_the_window_is_filled_and_never_exceeded(*, ordered: bool, newest: bool) -> None:
    backend = Backend()
    run = Submitted(range(500), backend, ordered=ordered, max_in_flight=7)
    backend.wait_for(7)
    backend.complete_in_background(500, newest=newest)
    run.env.wait()
    assert backend.most == 7
    assert sorted(run.out) == list(range(500))
    run.env.close()


def test_finished_records_behind_a_slow_one_keep_their_place_in_the_window() -> None:
    backend = Backend()
    run = Submitted(range(100), backend, max_in_flight=5)
    backend.wait_for(5)
    for _ in range(4):
        backend.complete(newest=True)
    with backend.arrived:
        taken_more = backend.arrived.wait_for(lambda: len(backend.in_flight) > 1, timeout=0.1)
    assert not taken_more
    backend.complete()
    backend.complete_in_background(95)
    run.env.wait()
    assert run.out == list(range(100))
    run.env.close()


def test_results_that_are_there_at_once_work_too() -> None:
    class Instant(AsyncMapFunction):
        def submit(self, record: int) -> Future[int]:
            future: Future[int] = Future()
            future.set_result(record)
            return future

        def complete(self, record: int, result: int) -> int:
            return record + result

    env = LocalEnvironment("instant")
    out: list[int] = []
    env.from_collection(range(5000)).map(Instant).map(Instant).sink(out.append)
    env.submit()
    assert out == [4 * x for x in range(5000)]


def test_complete_runs_in_order_on_one_thread() -> None:
    threads: set[int] = set()

    class Completing(Remote):
        def complete(self, record: int, result: int) -> int:
            threads.add(threading.get_ident())
            return record + result

    backend = Backend()
    env = LocalEnvironment("complete")
    out: list[int] = []
    env.from_collection(range(50)).map(Completing, backend, max_in_flight=50).sink(out.append)
    backend.complete_in_background(50, newest=True)
    env.submit()
    assert out == [2 * x for x in range(50)]
    assert len(threads) == 1


class Advertising(BaseService):
    max_concurrency = None
    capacity = 13

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def process(self, record: Any) -> Any:
        raise AssertionError("the kernel uses process_async")

    def process_async(self, record: Any) -> Future[Any]:
        return self.backend.submit(record)


class Calling(AsyncMapFunction):
    def default_max_in_flight(self) -> int:
        return self.ctx.services.capacity("remote") or 64

    def submit(self, record: Any) -> Future[Any]:
        return self.call_service_async("remote", record)


def test_the_default_window_is_the_services_capacity() -> None:
    backend = Backend()
    env = LocalEnvironment("capacity")
    env.register_service("remote", Advertising, backend)
    out: list[int] = []
    env.from_collection(range(200)).map(Calling).sink(out.append)
    env.submit(autostop=False)
    backend.wait_for(13)
    backend.complete_in_background(200)
    env.wait()
    env.close()
    assert backend.most == 13
    assert out == list(range(200))


@pytest.mark.parametrize("size", [0, -1])
def test_a_window_without_a_place_is_refused(size: int) -> None:
    class Unsure(Remote):
        def default_max_in_flight(self) -> int:
            return size

    for function, settings in ((Remote, {"max_in_flight": size}), (Unsure, {})):
        env = LocalEnvironment("window")
        env.from_collection([1]).map(function, Backend(), **settings)
        with pytest.raises(ValueError, match=f"max_in_flight must be at least 1, not {size}"):
            env.submit()


def test_thousands_in_flight_hold_no_thread_each() -> None:
    before = threading.active_count()
    backend = Backend()
    run = Submitted(range(5000), backend, max_in_flight=4000)
    backend.wait_for(4000)
    assert threading.active_count() - before <= 3
    backend.complete_in_background(5000)
    run.env.wait()
    run.env.close()
    assert run.out == list(range(5000))


def test_execute_works_on_one_record_outside_a_pipeline() -> None:
    backend = Backend()
    backend.complete_in_background(1)
    assert Remote(backend).execute("record") == "record"
