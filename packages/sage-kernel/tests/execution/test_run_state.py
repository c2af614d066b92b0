"""RunState: its transitions one by one, and what wins when threads disagree."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.execution.run_state import Phase, RunState
from sage.kernel.runtime.failed_record import FailedRecord


def failed(message: str = "it broke") -> FailedRecord:
    return FailedRecord(operator="map", record=7, error=ValueError(message))


@pytest.fixture
def state() -> RunState:
    return RunState("books")


@pytest.fixture
def running(state: RunState) -> RunState:
    state.set_up()
    state.run()
    return state


def end(state: RunState) -> None:
    state.conclude()
    state.end()


# -- the phases ------------------------------------------------------------------------------------


def test_a_run_goes_from_opening_to_over_and_has_ended(state: RunState) -> None:
    phases = [state.phase]
    for step in (state.set_up, state.run, state.conclude, state.end):
        step()
        phases.append(state.phase)
    assert phases == list(Phase)
    assert state.verdict == "ended"
    state.raise_verdict()  # nothing to raise


def test_it_is_decided_only_at_its_end(state: RunState) -> None:
    for step in (state.set_up, state.run, state.conclude):
        step()
        assert state.verdict is None
        assert not state.decided.is_set()
    state.end()
    assert state.decided.is_set()


def test_it_is_idle_before_it_is_set_up_and_after_it_is_over(state: RunState) -> None:
    assert state.wait_until_idle(0)
    for step in (state.set_up, state.run, state.conclude):
        step()
        assert not state.wait_until_idle(0)
    state.end()
    assert state.wait_until_idle(0)


def test_who_waits_for_the_end_is_woken(running: RunState) -> None:
    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(running.wait_until_idle, 10)
        end(running)
        assert waits.result(10)


# -- stop ------------------------------------------------------------------------------------------


def test_a_stop_decides_nothing(running: RunState) -> None:
    running.stop()
    assert running.stopping
    assert running.verdict is None
    assert running.whole  # no source has heard of it before its own end
    running.cut_short = True
    assert not running.whole
    end(running)
    assert running.verdict == "ended"


# -- cancel ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [(), ("set_up",), ("set_up", "run")])
def test_a_cancelled_run_is_decided_at_once(state: RunState, steps: tuple[str, ...]) -> None:
    for step in steps:
        getattr(state, step)()
    state.cancel()
    assert state.verdict == "cancelled"
    assert state.decided.is_set()
    assert state.stopping
    assert not state.whole
    with pytest.raises(PipelineCancelledError, match="pipeline 'books' was closed before its end"):
        state.raise_verdict()


def test_who_cancels_before_the_setup_is_heard_by_it(state: RunState) -> None:
    state.cancel()
    with pytest.raises(PipelineCancelledError):
        state.set_up()
    assert not state.wait_until_idle(0)  # whoever cancelled waits for what the executor cleans up


@pytest.mark.parametrize("steps", [("cancel", "end"), ("end", "cancel")])
def test_a_run_that_concludes_can_no_longer_be_cancelled(
    running: RunState, steps: tuple[str, ...]
) -> None:
    running.conclude()
    for step in steps:
        getattr(running, step)()
    assert running.verdict == "ended"
    running.raise_verdict()


def test_a_cancelled_run_stays_so_at_its_end(running: RunState) -> None:
    running.cancel()
    end(running)
    assert running.verdict == "cancelled"


# -- fail ------------------------------------------------------------------------------------------


def test_the_first_failure_stays(running: RunState) -> None:
    first = failed("first")
    assert running.fail(first, "where it was")
    assert not running.fail(failed("second"), "elsewhere")
    assert running.failure is first
    assert running.verdict == "failed"
    assert running.decided.is_set()
    assert running.stopping
    assert not running.whole
    assert first.error.__notes__ == ["where it was"]
    end(running)
    assert running.verdict == "failed"
    with pytest.raises(ValueError, match="first"):
        running.raise_verdict()


def test_a_failure_is_worth_more_than_a_cancellation(running: RunState) -> None:
    running.cancel()
    assert running.fail(failed())
    assert running.verdict == "failed"
    with pytest.raises(ValueError, match="it broke"):
        running.raise_verdict()


def test_a_cancellation_changes_no_failure(running: RunState) -> None:
    running.fail(failed())
    running.cancel()
    assert running.verdict == "failed"


def test_a_failure_while_it_concludes_is_told_when_all_is_concluded(running: RunState) -> None:
    running.conclude()
    assert running.whole
    assert running.fail(failed("the disk is full"))
    assert running.verdict == "failed"
    assert not running.decided.is_set()
    running.end()
    assert running.decided.is_set()
    with pytest.raises(ValueError, match="the disk is full"):
        running.raise_verdict()


def test_a_failure_before_the_setup_is_decided(state: RunState) -> None:
    state.fail(failed())
    assert state.decided.is_set()
    assert state.verdict == "failed"


def test_an_unseen_failure_is_taken_once(running: RunState) -> None:
    assert running.take_unseen_failure() is None
    first = failed()
    running.fail(first)
    assert running.take_unseen_failure() is first
    assert running.take_unseen_failure() is None
    for _ in range(2):  # every wait() raises it all the same
        with pytest.raises(ValueError, match="it broke"):
            running.raise_verdict()


def test_a_failure_that_was_raised_is_seen(running: RunState) -> None:
    running.fail(failed())
    with pytest.raises(ValueError, match="it broke"):
        running.raise_verdict()
    assert running.take_unseen_failure() is None


# -- races -----------------------------------------------------------------------------------------


def at_once(*calls: Callable[[], object]) -> None:
    """Make the calls from a thread each, as close together as a barrier brings them."""
    barrier = threading.Barrier(len(calls))

    def call(one: Callable[[], object]) -> None:
        barrier.wait(10)
        one()

    with ThreadPoolExecutor(len(calls)) as threads:
        for future in [threads.submit(call, one) for one in calls]:
            future.result(10)


def new_run() -> RunState:
    state = RunState("race")
    state.set_up()
    state.run()
    return state


ROUNDS = 20


@pytest.mark.parametrize("_round", range(ROUNDS))
def test_of_many_failures_at_once_one_stays_and_the_others_are_told(_round: int) -> None:
    state = new_run()
    failures = [failed(str(number)) for number in range(4)]
    taken: list[FailedRecord] = []

    def fail(failure: FailedRecord) -> None:
        if state.fail(failure, "here"):
            taken.append(failure)

    at_once(*[partial(fail, failure) for failure in failures])
    assert taken == [state.failure]
    assert [getattr(one.error, "__notes__", []) for one in failures].count(["here"]) == 1


@pytest.mark.parametrize("_round", range(ROUNDS))
def test_fail_against_cancel_is_failed_whichever_is_first(_round: int) -> None:
    state = new_run()
    at_once(state.cancel, partial(state.fail, failed()))
    assert state.verdict == "failed"


@pytest.mark.parametrize("_round", range(ROUNDS))
def test_cancel_against_the_end_is_one_of_both_and_stays_it(_round: int) -> None:
    state = new_run()
    seen: list[str | None] = []

    def conclude() -> None:
        state.conclude()
        seen.append(state.verdict)  # which decides whether outputs are published
        state.end()

    at_once(state.cancel, conclude)
    assert (seen, state.verdict) in (([None], "ended"), (["cancelled"], "cancelled"))


@pytest.mark.parametrize("_round", range(ROUNDS))
def test_fail_against_cancel_against_the_end_is_decided_and_over(_round: int) -> None:
    state = new_run()
    at_once(state.cancel, partial(state.fail, failed()), partial(end, state))
    assert state.verdict == "failed"
    assert state.decided.is_set()
    assert state.wait_until_idle(0)
