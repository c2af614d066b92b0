"""Futures that stand for others: outcomes go on, cancels go back, then nothing is kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from sage.common.components.sage_vllm.requests.gather import gather
from sage.common.core.futures import cancel_with, hand_over


class Result:
    pass


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_a_cancel_goes_back_until_the_other_is_done() -> None:
    outer, inner = Future[Any](), Future[Any]()
    cancel_with(outer, inner)
    outer.cancel()
    assert inner.cancelled()
    outer, inner = Future[Any](), Future[Any]()
    cancel_with(outer, inner)
    inner.set_result(1)
    outer.cancel()
    assert inner.result() == 1


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.usefixtures("no_collection")
def test_a_result_that_was_handed_over_is_kept_by_nobody(*, first: bool) -> None:
    outer, inner = Future[Any](), Future[Any]()
    if first:
        inner.set_result(Result())
    hand_over(inner, outer)
    if not first:
        inner.set_result(Result())
    known = weakref.ref(outer.result())
    del outer, inner
    assert known() is None


@pytest.mark.usefixtures("no_collection")
def test_results_that_were_gathered_are_kept_by_nobody() -> None:
    parts = [Future[Any]() for _ in range(3)]
    parts[1].set_result(Result())
    combined = gather(parts, list)
    for part in (parts[2], parts[0]):
        part.set_result(Result())
    known = [weakref.ref(result) for result in combined.result()]
    assert [part.result() for part in parts] == combined.result()
    del combined, parts, part
    assert [each() for each in known] == [None, None, None]
