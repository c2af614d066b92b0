"""gather: one Future of many."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from sage.common.components.sage_vllm.requests.gather import gather


def futures(count: int) -> list[Future[Any]]:
    return [Future() for _ in range(count)]


def test_results_keep_the_order_of_the_futures() -> None:
    parts = futures(3)
    whole = gather(parts, list)
    for index in (2, 0, 1):
        assert not whole.done()
        parts[index].set_result(index)
    assert whole.result() == [0, 1, 2]


def test_nothing_to_wait_for_is_done_at_once() -> None:
    assert gather([], list).result() == []


def test_the_first_error_cancels_the_others_and_is_raised() -> None:
    parts = futures(3)
    whole = gather(parts, list)
    parts[1].set_exception(ValueError("bad"))
    assert parts[0].cancelled()
    assert parts[2].cancelled()
    with pytest.raises(ValueError, match="bad"):
        whole.result()


def test_errors_can_take_their_results_place() -> None:
    parts = futures(2)
    whole = gather(parts, list, return_errors=True)
    error = ValueError("bad")
    parts[0].set_exception(error)
    parts[1].set_result("good")
    assert whole.result() == [error, "good"]


def test_cancelling_the_whole_cancels_every_part() -> None:
    parts = futures(2)
    whole = gather(parts, list)
    assert whole.cancel()
    assert all(part.cancelled() for part in parts)


def test_an_error_of_combine_reaches_who_waits() -> None:
    (part,) = parts = futures(1)
    whole = gather(parts, lambda results: results[7])
    part.set_result(1)
    with pytest.raises(IndexError):
        whole.result()
