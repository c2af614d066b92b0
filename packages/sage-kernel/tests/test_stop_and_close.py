from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from sage.common.core.functions import AsyncMapFunction, MapFunction, SinkFunction
from sage.common.service import BaseService
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.cancelled import PipelineCancelledError

pytestmark = pytest.mark.usefixtures("each_environment")


class Endless:
    """A source without an end, which tells when it has emitted ``enough``."""

    def __init__(self, enough: int = 100) -> None:
        self.enough = enough
        self.emitted: list[int] = []
        self.reached = threading.Event()

    def __call__(self) -> int:
        self.emitted.append(len(self.emitted))
        if len(self.emitted) == self.enough:
            self.reached.set()
        return self.emitted[-1]


class Marked(BaseService):
    def __init__(self, marks: list[str]) -> None:
        self.marks = marks

    def cleanup(self) -> None:
        self.marks.append("closed")


@pytest.fixture
def env() -> LocalEnvironment:
    return LocalEnvironment("stopping")


def test_stop_lets_everything_through_that_the_source_emitted(env: LocalEnvironment) -> None:
    source = Endless()
    out: list[int] = []
    marks: list[str] = []
    env.register_service("marked", Marked, marks)
    env.from_source(source).map(lambda x: x, parallelism=2).sink(out.append)
    env.submit(autostop=False)
    assert source.reached.wait(10)
    env.stop()
    assert sorted(out) == source.emitted
    assert marks == ["closed"]


def test_stop_from_another_thread_ends_a_submit_that_waits(env: LocalEnvironment) -> None:
    source = Endless()
    out: list[int] = []

    def stop() -> None:
        assert source.reached.wait(10)
        env.stop()

    env.from_source(source).sink(out.append)
    stopper = threading.Thread(target=stop)
    stopper.start()
    env.submit()
    stopper.join(10)
    assert out == source.emitted


def test_a_function_may_stop_its_own_pipeline(env: LocalEnvironment) -> None:
    source = Endless()
    out: list[int] = []

    def sink(record: int) -> None:
        out.append(record)
        if record == 20:
            env.stop()

    env.from_source(source).map(lambda x: x, parallelism=2).sink(sink)
    env.submit()
    assert sorted(out) == source.emitted


def test_a_function_may_close_its_own_pipeline(env: LocalEnvironment) -> None:
    marks: list[str] = []
    env.register_service("marked", Marked, marks)
    env.from_source(Endless()).sink(lambda record: env.close() if record == 20 else None)
    with pytest.raises(PipelineCancelledError):
        env.submit()
    assert marks == ["closed"]


def test_stop_raises_what_stopped_the_run(env: LocalEnvironment) -> None:
    marks: list[str] = []
    failed = threading.Event()

    def fail(record: int) -> float:
        failed.set()
        return 1 / record

    env.register_service("marked", Marked, marks)
    env.from_source(Endless()).map(fail)
    env.submit(autostop=False)
    assert failed.wait(10)
    with pytest.raises(ZeroDivisionError):
        env.stop()
    assert marks == ["closed"]


def test_stop_and_wait_without_a_run(env: LocalEnvironment) -> None:
    with pytest.raises(RuntimeError, match="'stopping' has not been submitted"):
        env.wait()
    env.stop()


def test_submit_without_autostop_returns_at_once_and_keeps_the_services(
    env: LocalEnvironment,
) -> None:
    begin = threading.Event()
    marks: list[str] = []
    out: list[int] = []

    def source() -> Iterator[int]:
        assert begin.wait(10)
        yield 1

    env.register_service("marked", Marked, marks)
    env.from_source(source).sink(out.append)
    env.submit(autostop=False)
    assert out == []
    begin.set()
    env.wait()
    assert (out, marks) == ([1], [])
    env.close()
    env.close()
    assert marks == ["closed"]


def test_the_context_manager_closes(
    env: LocalEnvironment, threads_left: Callable[[str], list[str]]
) -> None:
    marks: list[str] = []
    source = Endless()
    with env:
        env.register_service("marked", Marked, marks)
        env.from_source(source).map(str, parallelism=2)
        env.submit(autostop=False)
        assert source.reached.wait(10)
    assert marks == ["closed"]
    assert not threads_left("sage-stopping-")


def test_a_failure_that_nobody_waited_for_is_logged(
    env: LocalEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    class Divide(MapFunction):
        def execute(self, record: int) -> float:
            return 1 / record

        def cleanup(self) -> None:
            ended.set()

    ended = threading.Event()
    env.from_collection([0]).map(Divide, name="divide")
    env.submit(autostop=False)
    assert ended.wait(10)
    with caplog.at_level(logging.ERROR):
        env.close()
        env.close()
    (line,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "pipeline 'stopping' failed" in line.getMessage()
    assert "in operator 'divide' on record 0" in line.getMessage()
    assert "ZeroDivisionError" in caplog.text


def test_a_failure_that_was_raised_is_not_logged_again(
    env: LocalEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    env.from_collection([0]).map(lambda x: 1 / x)
    with pytest.raises(ZeroDivisionError):
        env.submit()
    assert not caplog.records


def test_a_flush_that_fails_while_closing_is_logged(
    env: LocalEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    class Writer(SinkFunction):
        def execute(self, record: Any) -> None: ...

        def cleanup(self) -> None:
            raise OSError("no space left")

    source = Endless()
    env.from_source(source).sink(Writer)
    env.submit(autostop=False)
    assert source.reached.wait(10)
    env.close()
    assert "in cleanup() of operator 'Writer'" in caplog.text
    assert "no space left" in caplog.text


class Gate:
    def __init__(self) -> None:
        self.taken: list[int] = []
        self.produced, self.entered = threading.Event(), threading.Event()
        self.release, self.ended = threading.Event(), threading.Event()


class SlowSink(SinkFunction):
    """Stays at each record until its gate opens."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def execute(self, record: int) -> None:
        self.gate.taken.append(record)
        if record == 0:
            assert self.gate.produced.wait(10)  # so that all the others are waiting by then
        else:
            self.gate.entered.set()
            assert self.gate.release.wait(10)

    def cleanup(self) -> None:
        self.gate.ended.set()


class Instant(AsyncMapFunction):
    max_in_flight = 64

    def submit(self, record: int) -> Future[int]:
        future: Future[int] = Future()
        future.set_result(record)
        return future


@pytest.mark.parametrize("through", ["channel", "window"])
def test_close_ends_a_slow_consumer_after_the_record_it_is_at(through: str) -> None:
    gate = Gate()

    def source() -> Iterator[int]:
        yield from range(60)
        gate.produced.set()

    env = LocalEnvironment("slow", {"close_timeout": 0.05})
    stream = env.from_source(source)
    behind = stream.map(Instant) if through == "window" else stream.union(stream.filter(bool))
    behind.sink(SlowSink, gate)
    env.submit(autostop=False)
    assert gate.entered.wait(10)
    env.close()
    gate.release.set()
    assert gate.ended.wait(10)
    assert len(gate.taken) == 2


def test_close_gives_up_on_a_function_that_does_not_return_and_names_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    env = LocalEnvironment("stuck", {"close_timeout": 0.05})
    marks: list[str] = []
    entered = threading.Event()
    release = threading.Event()

    def stuck(record: int) -> None:
        entered.set()
        release.wait(20)

    env.register_service("marked", Marked, marks)
    env.from_collection([1]).sink(stuck, name="stuck")
    env.submit(autostop=False)
    assert entered.wait(10)
    env.close()
    assert marks == ["closed"]
    assert "after 0.05 s these operators have not returned: sage-stuck-collection" in caplog.text
    release.set()


def test_close_before_submit_makes_submit_refuse(env: LocalEnvironment) -> None:
    env.from_collection([1])
    env.close()
    with pytest.raises(RuntimeError, match="make a new environment"):
        env.submit()
