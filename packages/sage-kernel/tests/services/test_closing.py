"""Closing while calls run, wait and arrive."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from typing import Any

import pytest

from sage.common.service import BaseService, ServiceClosedError
from sage.kernel.api import LocalEnvironment


class Busy(BaseService):
    """Keeps a call until its stop(), and then knows of calls after its cleanup()."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.stopping = threading.Event()
        self.cleaned = False

    def process(self, payload: Any) -> Any:
        assert not self.cleaned, "called after cleanup()"
        self.begun.set()
        assert self.stopping.wait(10)
        return payload

    def stop(self) -> None:
        self.stopping.set()

    def cleanup(self) -> None:
        self.cleaned = True


class Opened:
    def __init__(self) -> None:
        self.env = LocalEnvironment("closing")
        self.env.register_service("busy", Busy)
        self.proxy = self.env.service("busy")


def test_calls_that_wait_for_their_turn_are_refused() -> None:
    opened = Opened()
    begun = threading.Barrier(5)

    def call(n: int) -> Any:
        begun.wait(10)
        return opened.proxy.process(n)

    with ThreadPoolExecutor(5) as callers:
        calls = [callers.submit(call, n) for n in range(5)]
        with_timeout = opened.proxy.call_async("waits")
        opened.env.close()
        outcomes = [c.exception(10) for c in calls]
    assert sum(outcome is None for outcome in outcomes) <= 1
    assert all(o is None or isinstance(o, ServiceClosedError) for o in outcomes)
    assert with_timeout.done() or isinstance(with_timeout.exception(10), ServiceClosedError)


def test_queued_asynchronous_calls_are_cancelled_and_waiting_for_them_ends() -> None:
    opened = Opened()
    futures = [opened.proxy.call_async(n) for n in range(10)]
    opened.env.close()
    done, not_done = wait(futures, timeout=10)
    assert not not_done
    results = [f for f in done if not f.cancelled() and f.exception() is None]
    assert len(results) <= 1
    for future in done:
        if future not in results:
            with pytest.raises((CancelledError, ServiceClosedError)):
                future.result()


def test_a_caller_with_a_timeout_hears_that_the_service_closed() -> None:
    opened = Opened()
    with ThreadPoolExecutor(1) as caller:
        running = opened.proxy.call_async("runs")
        instance_has_begun = threading.Event()

        def call() -> Any:
            instance_has_begun.set()
            return opened.proxy.process("waits", timeout=60)

        waiting = caller.submit(call)
        assert instance_has_begun.wait(10)
        opened.env.close()
        assert isinstance(waiting.exception(10), ServiceClosedError)
        running.exception(10) if not running.cancelled() else None


def test_two_threads_that_close_at_once_both_return_when_all_is_closed() -> None:
    trace: list[str] = []
    slow = threading.Event()

    class Slow(BaseService):
        def stop(self) -> None:
            stopping.set()
            assert slow.wait(10)
            trace.append("stop")

        def cleanup(self) -> None:
            trace.append("cleanup")

    stopping = threading.Event()
    env = LocalEnvironment("twice")
    env.register_service("slow", Slow)
    env.service("slow")
    seen: list[list[str]] = []

    def close() -> None:
        env.close()
        seen.append(list(trace))

    threads = [threading.Thread(target=close) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert stopping.wait(10)
    assert seen == []
    slow.set()
    for thread in threads:
        thread.join(10)
    assert seen == [["stop", "cleanup"]] * 2


def test_an_error_in_teardown_is_logged_and_the_others_are_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed: list[str] = []

    class Fine(BaseService):
        def cleanup(self) -> None:
            closed.append(self.ctx.name)

    class Broken(Fine):
        def stop(self) -> None:
            raise OSError("cannot stop")

    env = LocalEnvironment("teardown")
    env.register_service("first", Fine)
    env.register_service("broken", Broken)
    env.register_service("last", Fine)
    env.service("first")
    with caplog.at_level(logging.ERROR):
        env.close()
    assert closed == ["last", "broken", "first"]
    assert "stop() of service 'broken' failed" in caplog.text
    assert "cannot stop" in caplog.text


def test_an_interrupt_in_teardown_is_raised_after_all_was_closed() -> None:
    closed: list[str] = []

    class Fine(BaseService):
        def cleanup(self) -> None:
            closed.append(self.ctx.name)

    class Interrupted(Fine):
        def stop(self) -> None:
            raise KeyboardInterrupt

    env = LocalEnvironment("teardown")
    env.register_service("first", Fine)
    env.register_service("interrupted", Interrupted)
    env.service("first")
    with pytest.raises(KeyboardInterrupt):
        env.close()
    assert closed == ["interrupted", "first"]


def test_a_service_may_wait_in_stop_for_a_thread_that_makes_a_call() -> None:
    class Pump(BaseService):
        def setup(self) -> None:
            self.stopping = threading.Event()
            self.outcomes: list[Any] = []
            self.thread = threading.Thread(target=self.run)
            self.thread.start()

        def run(self) -> None:
            assert self.stopping.wait(10)
            try:
                outcomes.append(env.call_service("store", "last"))
            except ServiceClosedError as error:
                outcomes.append(error)

        def stop(self) -> None:
            self.stopping.set()
            self.thread.join(10)
            assert not self.thread.is_alive()

    class Store(BaseService):
        def process(self, payload: Any) -> Any:
            return payload

    outcomes: list[Any] = []
    env = LocalEnvironment("pump")
    env.register_service("store", Store)
    env.register_service("pump", Pump)
    env.service("pump")
    env.close()
    assert outcomes == ["last"]  # those registered before are still up


def test_the_first_error_is_not_masked_by_one_in_teardown() -> None:
    class Broken(BaseService):
        def cleanup(self) -> None:
            raise OSError("teardown")

    env = LocalEnvironment("mask")
    env.register_service("broken", Broken)
    env.from_collection([0]).map(lambda x: 1 / x)
    with pytest.raises(ZeroDivisionError):
        env.submit()
