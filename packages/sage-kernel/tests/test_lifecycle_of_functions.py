from __future__ import annotations

import threading
from typing import Any

import pytest

from sage.common.core.functions import MapFunction, SinkFunction
from sage.common.service import BaseService
from sage.kernel.api import LocalEnvironment


class Traced(MapFunction):
    """Notes what happens to it."""

    def __init__(self, trace: list[str], name: str, *, fails_in: str = "") -> None:
        self.trace, self.name, self.fails_in = trace, name, fails_in

    def step(self, step: str) -> None:
        self.trace.append(f"{step} {self.name}")
        if step == self.fails_in:
            raise OSError(f"{self.name} failed")

    def setup(self) -> None:
        self.step("setup")

    def execute(self, record: Any) -> Any:
        self.step("execute")
        return record

    def cleanup(self) -> None:
        self.step("cleanup")


class BufferingSink(SinkFunction):
    """Writes only at the end, as sinks do that write in blocks."""

    def __init__(self, write: Any) -> None:
        self.write = write
        self.buffer: list[Any] = []

    def execute(self, record: Any) -> None:
        self.buffer.append(record)

    def cleanup(self) -> None:
        self.write(self.buffer)


def full_disk(_: Any) -> None:
    raise OSError("no space left")


def leave(_: Any) -> None:
    raise SystemExit(3)


@pytest.fixture
def env() -> LocalEnvironment:
    return LocalEnvironment("lifecycle")


def test_each_function_is_set_up_before_any_record_and_cleaned_up_after_the_last(
    env: LocalEnvironment,
) -> None:
    trace: list[str] = []
    env.from_collection([1, 2]).map(Traced, trace, "a").map(Traced, trace, "b", parallelism=2)
    env.submit()
    assert sorted(trace[:3]) == ["setup a", "setup b", "setup b"]
    assert sorted(trace[3:-3]) == ["execute a"] * 2 + ["execute b"] * 2
    assert sorted(trace[-3:]) == ["cleanup a", "cleanup b", "cleanup b"]


def test_setup_that_raises_is_raised_before_any_record_moves(env: LocalEnvironment) -> None:
    trace: list[str] = []
    stream = env.from_collection([1]).map(Traced, trace, "a")
    stream.map(Traced, trace, "b", fails_in="setup", name="broken")
    with pytest.raises(OSError, match="b failed") as caught:
        env.submit()
    assert caught.value.__notes__ == ["in setup() of operator 'broken'"]
    assert not any(step.startswith("execute") for step in trace)
    assert env.failure is not None
    assert (env.failure.operator, env.failure.error) == ("broken", caught.value)


def test_only_functions_whose_setup_began_are_cleaned_up(env: LocalEnvironment) -> None:
    trace: list[str] = []
    env.from_collection([1]).map(Traced, trace, "a", fails_in="setup")
    env.from_collection([1]).map(Traced, trace, "b")
    with pytest.raises(OSError, match="a failed"):
        env.submit()
    assert trace == ["setup a", "cleanup a"]


def test_functions_are_cleaned_up_after_a_failure(env: LocalEnvironment) -> None:
    trace: list[str] = []
    env.from_collection([1]).map(Traced, trace, "a").map(Traced, trace, "b", fails_in="execute")
    with pytest.raises(OSError, match="b failed"):
        env.submit()
    assert sorted(trace[-2:]) == ["cleanup a", "cleanup b"]


def test_a_sink_that_cannot_flush_fails_the_pipeline(env: LocalEnvironment) -> None:
    env.from_collection([1]).sink(BufferingSink, full_disk, name="writer")
    with pytest.raises(OSError, match="no space left") as caught:
        env.submit()
    assert caught.value.__notes__ == ["in cleanup() of operator 'writer'"]
    assert env.failure is not None
    assert env.failure.operator == "writer"


def test_a_failing_cleanup_does_not_keep_others_from_flushing(env: LocalEnvironment) -> None:
    written: list[Any] = []
    stream = env.from_collection([1])
    stream.sink(BufferingSink, full_disk).sink(BufferingSink, written.extend)
    stream.sink(BufferingSink, full_disk)
    with pytest.raises(OSError, match="no space left"):
        env.submit()
    assert written == [1]


def test_a_failing_cleanup_does_not_mask_the_first_error(
    env: LocalEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    stream = env.from_collection([0]).sink(BufferingSink, full_disk, name="writer")
    stream.map(lambda x: 1 / x)
    with pytest.raises(ZeroDivisionError):
        env.submit()
    assert "cleanup() of operator 'writer' failed" in caplog.text
    assert "no space left" in caplog.text


def test_system_exit_in_cleanup_is_raised(env: LocalEnvironment) -> None:
    env.from_collection([1]).sink(BufferingSink, leave)
    with pytest.raises(SystemExit):
        env.submit()


def test_services_are_still_up_while_functions_flush(env: LocalEnvironment) -> None:
    class Store(BaseService):
        def setup(self) -> None:
            self.stored: list[Any] = []

        def process(self, payload: Any) -> int:
            self.stored.extend(payload)
            return len(self.stored)

    class StoreSink(BufferingSink):
        def __init__(self) -> None:
            super().__init__(lambda records: counts.append(self.call_service("store", records)))

    counts: list[int] = []
    env.register_service("store", Store)
    env.from_collection([1, 2, 3]).sink(StoreSink)
    env.submit()
    assert counts == [3]


def test_a_failure_is_raised_although_another_source_never_returns() -> None:
    env = LocalEnvironment("stuck", {"close_timeout": 0.2})
    never = threading.Event()
    env.from_source(never.wait, name="stuck")
    env.from_collection([0]).map(lambda x: 1 / x)
    try:
        with pytest.raises(ZeroDivisionError):
            env.submit()
    finally:
        never.set()
