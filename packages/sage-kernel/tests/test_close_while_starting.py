"""stop() and close() before the first record: while services open, and while functions set up."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from sage.common.core.functions import MapFunction
from sage.common.service import BaseService, ServiceClosedError
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.cancelled import PipelineCancelledError


class Loading(BaseService):
    """Takes its time to load, as an engine does."""

    def __init__(self, loading: threading.Event, loaded: threading.Event, marks: list[str]) -> None:
        self.loading, self.loaded, self.marks = loading, loaded, marks

    def setup(self) -> None:
        self.marks.append(f"setup {self.ctx.name}")
        self.loading.set()
        assert self.loaded.wait(10)

    def process(self, payload: Any) -> Any:
        return payload

    def cleanup(self) -> None:
        self.marks.append(f"cleanup {self.ctx.name}")


class Asks(MapFunction):
    def __init__(self, marks: list[str]) -> None:
        self.marks = marks

    def setup(self) -> None:
        self.marks.append("setup of the function")

    def execute(self, record: Any) -> Any:
        return self.call_service("first", record)


class Started:
    """An environment whose submit() runs on a thread of its own and waits for a service."""

    def __init__(self) -> None:
        self.loading, self.loaded = threading.Event(), threading.Event()
        self.marks: list[str] = []
        self.out: list[Any] = []
        self.dead: list[Any] = []
        self.env = LocalEnvironment("starting", {"close_timeout": 100})
        for name in ("first", "second"):
            self.env.register_service(name, Loading, self.loading, self.loaded, self.marks)
        stream = self.env.from_collection(range(10))
        stream.map(Asks, self.marks, on_error=self.dead.append).sink(self.out.append)
        self.threads = ThreadPoolExecutor(2)

    def submit(self) -> Future[None]:
        submitted = self.threads.submit(self.env.submit)
        assert self.loading.wait(10)
        return submitted

    def wait_until(self, flag: str) -> None:
        """Return when the other thread has called stop() or close(), which then waits."""
        for _ in range(1000):
            if flag == "closed" and self.env.service_manager.closed:
                return
            if flag == "stopping" and self.env._executor and self.env._executor._state.stopping:
                return
            time.sleep(0.01)
        raise AssertionError(f"it is not {flag}")


@pytest.fixture
def started() -> Any:
    started = Started()
    yield started
    started.loaded.set()
    started.threads.shutdown()


def test_close_ends_a_submit_whose_services_are_opening(started: Started) -> None:
    submitted = started.submit()
    began = time.monotonic()
    closed = started.threads.submit(started.env.close)
    started.wait_until("closed")
    started.loaded.set()
    closed.result(10)
    with pytest.raises(PipelineCancelledError):
        submitted.result(10)
    assert (started.out, started.dead) == ([], [])
    assert started.marks == ["setup first", "cleanup first"]  # and "second" is never loaded
    assert started.env.metrics().state == "cancelled"
    assert time.monotonic() - began < 50  # not after close_timeout


def test_stop_ends_a_submit_whose_services_are_opening_without_a_record(started: Started) -> None:
    submitted = started.submit()
    stopped = started.threads.submit(started.env.stop)
    started.wait_until("stopping")
    started.loaded.set()
    stopped.result(10)
    submitted.result(10)
    assert (started.out, started.dead) == ([], [])
    assert sorted(started.marks[-2:]) == ["cleanup first", "cleanup second"]


def test_a_service_that_fails_to_open_is_raised_by_a_stop_that_waits_too() -> None:
    class Broken(BaseService):
        def setup(self) -> None:
            loading.set()
            assert go_on.wait(10)
            raise OSError("no memory")

    loading, go_on = threading.Event(), threading.Event()
    env = LocalEnvironment("broken")
    env.register_service("broken", Broken)
    env.from_collection([1]).print()
    with ThreadPoolExecutor(2) as threads:
        submitted = threads.submit(env.submit)
        assert loading.wait(10)
        stopped = threads.submit(env.stop)
        go_on.set()
        for call in (submitted, stopped):
            with pytest.raises(OSError, match="no memory"):
                call.result(10)
    assert env.metrics().state == "failed"


def test_close_ends_a_call_from_outside_that_is_opening_the_services(started: Started) -> None:
    call = started.threads.submit(started.env.call_service, "second", 1)
    assert started.loading.wait(10)
    closed = started.threads.submit(started.env.close)
    started.wait_until("closed")
    started.loaded.set()
    closed.result(10)
    with pytest.raises(ServiceClosedError, match="'second' takes no calls: it has been closed"):
        call.result(10)
    assert started.marks == ["setup first", "cleanup first"]


@pytest.mark.parametrize("how", ["stop", "close"])
@pytest.mark.parametrize("where", ["service", "function"])
def test_setup_may_end_its_own_pipeline(
    how: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    class EndsByService(BaseService):
        def setup(self) -> None:
            marks.append("service is set up")
            if where == "service":
                getattr(env, how)()

        def cleanup(self) -> None:
            marks.append("service is cleaned up")

    class EndsByFunction(MapFunction):
        def setup(self) -> None:
            marks.append("function is set up")
            if where == "function":
                getattr(env, how)()

        def execute(self, record: Any) -> Any:
            raise AssertionError("there is nothing to do")

        def cleanup(self) -> None:
            marks.append("function is cleaned up")

    marks: list[str] = []
    env = LocalEnvironment("ends itself", {"close_timeout": 100})
    env.register_service("service", EndsByService)
    env.from_collection([1]).map(EndsByFunction).map(EndsByFunction)
    began = time.monotonic()
    if how == "stop":
        env.submit()
    else:
        with pytest.raises(PipelineCancelledError):
            env.submit()
    assert time.monotonic() - began < 50  # not after close_timeout
    set_up = {"close service": 0, "close function": 1}.get(f"{how} {where}", 2)
    functions = [*["function is set up"] * set_up, *["function is cleaned up"] * set_up]
    assert marks == ["service is set up", *functions, "service is cleaned up"]
    assert not caplog.records


def test_close_while_functions_set_up_is_raised_by_submit() -> None:
    class Slow(MapFunction):
        def setup(self) -> None:
            setting_up.set()
            assert go_on.wait(10)

        def execute(self, record: Any) -> Any:
            return out.append(record)

        def cleanup(self) -> None:
            cleaned.set()

    setting_up, go_on, cleaned = threading.Event(), threading.Event(), threading.Event()
    out: list[Any] = []
    env = LocalEnvironment("slow", {"close_timeout": 0.05})
    env.from_collection([1]).map(Slow, name="slow")
    with ThreadPoolExecutor(1) as threads:
        submitted = threads.submit(env.submit)
        assert setting_up.wait(10)
        env.close()
        go_on.set()
        with pytest.raises(PipelineCancelledError):
            submitted.result(10)
    assert out == []
    assert cleaned.is_set()
