"""RunThreads: real threads, what their errors become, and who is the last."""

from __future__ import annotations

import threading

import pytest

from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.execution.run_threads import RunThreads
from sage.kernel.runtime.failed_record import FailedRecord


class Run:
    def __init__(self) -> None:
        self.failures: list[FailedRecord] = []
        self.ends = 0
        self.ended = threading.Event()
        self.threads = RunThreads("run", fail=self.failures.append, all_ended=self.end)

    def end(self) -> None:
        self.ends += 1
        self.ended.set()


@pytest.fixture
def run() -> Run:
    return Run()


def test_the_last_thread_tells_the_end_and_only_it(run: Run) -> None:
    go_on = [threading.Event() for _ in range(3)]
    for number, event in enumerate(go_on):
        run.threads.add(f"op{number}", lambda event=event: event.wait(10))
    run.threads.start()
    for number, event in enumerate(go_on):
        assert not run.ended.is_set()
        assert run.threads.alive == [f"sage-run-op{n}" for n in range(number, 3)]
        event.set()
        name = f"sage-run-op{number}"
        for thread in threading.enumerate():
            if thread.name == name:
                thread.join(10)
    assert run.ended.wait(10)
    assert run.ends == 1
    assert not run.failures


def test_an_error_that_gets_out_names_its_operator_before_the_end(run: Run) -> None:
    def fails() -> None:
        raise ValueError("no")

    def cancelled() -> None:
        raise PipelineCancelledError

    run.threads.add("fails", fails)
    run.threads.add("cancelled", cancelled)
    run.threads.start()
    assert run.ended.wait(10)
    assert [failure.operator for failure in run.failures] == ["fails"]
    assert isinstance(run.failures[0].error, ValueError)


def test_it_knows_its_own_threads(run: Run) -> None:
    seen: list[bool] = []
    run.threads.add("asks", lambda: seen.append(threading.current_thread() in run.threads))
    assert run.threads
    run.threads.start()
    assert run.ended.wait(10)
    assert seen == [True]
    assert threading.current_thread() not in run.threads
    assert not Run().threads


def test_threads_that_cannot_be_started_do_not_keep_the_run_from_its_end(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = threading.Event()
    go_on = threading.Event()

    def body() -> None:
        started.set()
        assert go_on.wait(10)

    run.threads.add("first", body)
    run.threads.add("second", body)
    start = threading.Thread.start

    def start_one(thread: threading.Thread) -> None:
        if thread.name == "sage-run-second":
            raise RuntimeError("can't start new thread")  # what CPython raises at the limit
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        run.threads.start()
    assert started.wait(10)
    run.threads.give_up_unstarted()
    assert not run.ended.is_set()  # the first one runs
    go_on.set()
    assert run.ended.wait(10)
    assert run.ends == 1
