from __future__ import annotations

import logging
import threading

import pytest

from sage.common.service import BaseService, ServiceClosedError


class Traced(BaseService):
    """Forgets super().__init__() and notes its steps; ``fails_in`` raises there."""

    def __init__(self, *fails_in: str, error: BaseException | None = None) -> None:
        self.trace: list[str] = []
        self.fails_in = fails_in
        self.error = error or OSError("no")

    def step(self, step: str) -> None:
        self.trace.append(step)
        if step in self.fails_in:
            raise self.error

    def setup(self) -> None:
        self.step("setup")

    def start(self) -> None:
        self.step("start")

    def stop(self) -> None:
        self.step("stop")

    def cleanup(self) -> None:
        self.step("cleanup")


def test_each_step_runs_once_and_in_order() -> None:
    service = Traced()
    with service:
        service.open()
        service.trace.append("use")
    service.close()
    with pytest.raises(ServiceClosedError, match="does not open again; make a new one"):
        service.open()
    assert service.trace == ["setup", "start", "use", "stop", "cleanup"]


@pytest.mark.parametrize("step", ["setup", "start"])
def test_one_that_fails_to_open_is_cleaned_up_and_its_error_raised(step: str) -> None:
    service = Traced(step)
    with pytest.raises(OSError, match="no"), service:
        service.trace.append("use")
    service.close()
    opened = ["setup"] if step == "setup" else ["setup", "start"]
    assert service.trace == [*opened, "cleanup"]


def test_one_that_was_never_opened_has_nothing_to_close() -> None:
    service = Traced()
    service.close()
    assert service.trace == []


def test_errors_in_teardown_are_logged_and_every_step_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR), Traced("stop", "cleanup") as service:
        pass
    assert service.trace == ["setup", "start", "stop", "cleanup"]
    assert [r.getMessage() for r in caplog.records] == [
        "stop() of service 'unbound' failed",
        "cleanup() of service 'unbound' failed",
    ]


def test_an_error_of_the_body_is_not_masked_by_one_in_teardown() -> None:
    with pytest.raises(ZeroDivisionError), Traced("stop", "cleanup"):
        _ = 1 / 0


def test_an_interrupt_in_stop_still_cleans_up() -> None:
    service = Traced("stop", error=KeyboardInterrupt())
    service.open()
    with pytest.raises(KeyboardInterrupt):
        service.close()
    assert service.trace == ["setup", "start", "stop", "cleanup"]


def test_a_service_without_process_asks_for_a_method() -> None:
    with pytest.raises(NotImplementedError, match=r"Traced defines no process\(\); name a method"):
        Traced().process(1)


def test_whoever_closes_at_the_same_time_returns_when_it_is_closed() -> None:
    stopping, let = threading.Event(), threading.Event()

    class Slow(BaseService):
        def stop(self) -> None:
            stopping.set()
            assert let.wait(10)

    service = Slow()
    service.open()
    first, second = (threading.Thread(target=service.close) for _ in range(2))
    first.start()
    assert stopping.wait(10)
    second.start()
    second.join(timeout=0.05)
    assert second.is_alive()
    let.set()
    for thread in (first, second):
        thread.join(timeout=10)
        assert not thread.is_alive()
