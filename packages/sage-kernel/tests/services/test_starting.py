from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from sage.common.service import BaseService, ServiceClosedError
from sage.kernel.api import LocalEnvironment


class Traced(BaseService):
    """Notes its steps; ``fails_in`` raises there."""

    def __init__(self, trace: list[str], *, fails_in: str = "") -> None:
        self.trace, self.fails_in = trace, fails_in
        self.step("init")

    def step(self, step: str) -> None:
        self.trace.append(f"{step} {self.ctx.name}" if step != "init" else "init")
        if step == self.fails_in:
            raise OSError(f"{step} failed")

    def setup(self) -> None:
        self.step("setup")

    def start(self) -> None:
        self.step("start")

    def process(self, payload: Any) -> Any:
        self.step("process")
        return payload

    def stop(self) -> None:
        self.step("stop")

    def cleanup(self) -> None:
        self.step("cleanup")


def steps(trace: list[str]) -> list[str]:
    return [step for step in trace if step != "init"]


@pytest.fixture
def env() -> LocalEnvironment:
    return LocalEnvironment("starting")


def test_services_start_in_order_and_stop_in_reverse(env: LocalEnvironment) -> None:
    trace: list[str] = []
    env.register_service("a", Traced, trace)
    env.register_service("b", Traced, trace)
    env.from_collection([1]).sink(lambda _: trace.append("record"))
    env.submit()
    env.close()
    assert steps(trace) == [
        "setup a", "start a", "setup b", "start b",
        "record",
        "stop b", "cleanup b", "stop a", "cleanup a",
    ]  # fmt: skip


@pytest.mark.parametrize("step", ["init", "setup", "start"])
def test_a_service_that_fails_to_start_is_raised_before_any_record_moves(
    env: LocalEnvironment, step: str
) -> None:
    trace: list[str] = []
    env.register_service("a", Traced, trace)
    env.register_service("b", Traced, trace)
    env.register_service("broken", Traced, trace, fails_in=step)
    env.register_service("never", Traced, trace)
    env.from_collection([1]).sink(lambda _: trace.append("record"))
    with pytest.raises(OSError, match=f"{step} failed") as caught:
        env.submit()
    assert caught.value.__notes__ == ["while starting service 'broken'"]
    half_way = {"init": [], "setup": ["setup broken"], "start": ["setup broken", "start broken"]}
    cleaned = [] if step == "init" else ["cleanup broken"]
    assert steps(trace) == [
        "setup a", "start a", "setup b", "start b",
        *half_way[step], *cleaned,
        "stop b", "cleanup b", "stop a", "cleanup a",
    ]  # fmt: skip


def test_an_environment_whose_services_failed_cannot_be_used_again(env: LocalEnvironment) -> None:
    env.register_service("broken", Traced, [], fails_in="setup")
    env.from_collection([1])
    with pytest.raises(OSError, match="setup failed"):
        env.submit()
    with pytest.raises(RuntimeError, match="was submitted already; make a new one"):
        env.submit()
    with pytest.raises(ServiceClosedError, match="it has been closed"):
        env.call_service("broken", 1)


def test_a_service_may_call_those_before_it_in_setup_but_not_those_after(
    env: LocalEnvironment,
) -> None:
    class Asks(BaseService):
        def __init__(self, name: str) -> None:
            self.name = name

        def setup(self) -> None:
            self.answer = self.call_service(self.name, "hello")

        def process(self, payload: Any) -> Any:
            return self.answer

    env.register_service("first", Traced, [])
    env.register_service("second", Asks, "first")
    assert env.call_service("second", None) == "hello"
    env.close()
    other = LocalEnvironment("other")
    other.register_service("early", Asks, "late")
    other.register_service("late", Traced, [])
    with pytest.raises(ServiceClosedError, match="'late' takes no calls: it has not been started"):
        other.call_service("early", None)


def test_setup_may_wait_for_a_thread_that_calls_an_earlier_service(env: LocalEnvironment) -> None:
    class Loads(BaseService):
        def setup(self) -> None:
            with ThreadPoolExecutor(2) as threads:
                by_call = threads.submit(env.call_service, "first", "hello")
                by_proxy = threads.submit(lambda: env.service("first").process("hello"))
                self.answers = [by_call.result(10), by_proxy.result(10)]

        def process(self, payload: Any) -> Any:
            return self.answers

    env.register_service("first", Traced, [])
    env.register_service("second", Loads)
    assert env.call_service("second", None) == ["hello", "hello"]
    env.close()


def test_a_call_waits_for_another_thread_that_is_opening_the_services(
    env: LocalEnvironment,
) -> None:
    class Slow(Traced):
        def setup(self) -> None:
            opening.set()
            assert go_on.wait(10)

    opening, go_on = threading.Event(), threading.Event()
    trace: list[str] = []
    env.register_service("slow", Slow, trace)
    env.register_service("last", Traced, trace)
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(env.call_service, "last", 0)]
        assert opening.wait(10)
        calls.append(threads.submit(env.call_service, "last", 1))
        go_on.set()
        assert [call.result(10) for call in calls] == [0, 1]
    assert trace.count("setup last") == 1
    env.close()


def test_an_error_that_takes_no_notes_is_raised_as_it_is(env: LocalEnvironment) -> None:
    @dataclass(frozen=True)
    class NoLicenseError(Exception):
        code: int

    class Broken(BaseService):
        def setup(self) -> None:
            raise NoLicenseError(7)

    env.register_service("broken", Broken)
    env.from_collection([1])
    with pytest.raises(NoLicenseError) as caught:
        env.submit()
    assert caught.value.code == 7


def test_a_call_from_outside_opens_the_services_without_a_pipeline() -> None:
    trace: list[str] = []
    with LocalEnvironment("calls") as env:
        env.register_service("a", Traced, trace)
        assert trace == []
        assert env.call_service("a", 1) == 1
        assert env.call_service("a", 2) == 2
    assert steps(trace) == ["setup a", "start a", "process a", "process a", "stop a", "cleanup a"]


def test_services_opened_by_a_call_are_used_by_the_pipeline(env: LocalEnvironment) -> None:
    trace: list[str] = []
    env.register_service("a", Traced, trace)
    env.call_service("a", 1)
    env.from_collection([1]).map(str)
    env.submit()
    assert trace.count("setup a") == 1
    assert trace[-2:] == ["stop a", "cleanup a"]
