"""gather and then: Futures made of others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from sage.common.components.sage_vllm.requests.gather import gather, then


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


def test_what_was_started_is_cancelled_when_a_later_start_raises() -> None:
    parts = futures(2)

    def start() -> Iterator[Future[Any]]:
        yield from parts
        raise ValueError("the third is bad")

    with pytest.raises(ValueError, match="the third is bad"):
        gather(start(), list)
    assert all(part.cancelled() for part in parts)


def test_a_future_of_one_has_its_converted_result() -> None:
    (part,) = futures(1)
    converted = then(part, lambda result: result * 2)
    assert not converted.done()
    part.set_result(3)
    assert converted.result() == 6


def test_a_future_of_one_has_its_error_or_what_is_made_of_it() -> None:
    (part,) = futures(1)
    raised, returned = then(part, str), then(part, str, return_errors=True)
    part.set_exception(ValueError("bad"))
    with pytest.raises(ValueError, match="bad"):
        raised.result()
    assert returned.result() == "bad"


def test_a_future_of_one_has_the_error_of_converting() -> None:
    (part,) = futures(1)
    converted = then(part, lambda result: result[7])
    part.set_result([])
    with pytest.raises(IndexError):
        converted.result()


def test_a_cancel_goes_both_ways_between_a_future_and_the_one_made_of_it() -> None:
    forward, back = futures(2)
    assert then(forward, str).cancel()
    assert forward.cancelled()
    made = then(back, str)
    back.cancel()
    assert made.cancelled()
