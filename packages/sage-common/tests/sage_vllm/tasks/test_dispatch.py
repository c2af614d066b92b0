"""start_task: from a payload to the method that it names."""

from __future__ import annotations

from concurrent.futures import Future
from threading import current_thread, main_thread
from typing import Any

import pytest

from sage.common.components.sage_vllm.tasks.dispatch import Task, start_task


def double(inputs: Any, times: int = 2) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(inputs * times)
    return future


def where(name: str) -> tuple[str, bool]:
    return name, current_thread() is main_thread()


TASKS = {
    "double": Task(run=double, has_inputs=True, returns_future=True),
    "where": Task(run=where),
}


def test_inputs_are_the_first_argument_and_options_the_others() -> None:
    assert start_task({"task": "double", "inputs": "ab"}, TASKS).result() == "abab"
    payload = {"task": "double", "inputs": "ab", "options": {"times": 3}}
    assert start_task(payload, TASKS).result() == "ababab"


def test_a_task_that_returns_no_future_runs_beside_its_caller() -> None:
    payload = {"task": "where", "options": {"name": "x"}}
    assert start_task(payload, TASKS).result(10) == ("x", False)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"task": "doubel", "inputs": 1}, "unknown task 'doubel'; did you mean 'double'"),
        ({"task": "double"}, "task 'double' needs 'inputs'"),
        ({"task": "where", "inputs": 1}, "task 'where' takes no 'inputs'"),
        ({"task": "where"}, "takes the options name: missing"),
        ({"task": "double", "inputs": 1, "options": {"time": 3}}, "takes the options times"),
        ({"task": "where", "opts": {}}, "the payload must be"),
        (["double"], "the payload must be"),
    ],
)
def test_a_payload_that_fits_no_task_is_refused(payload: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        start_task(payload, TASKS)
