"""The order in which a StartQueue gives out what waits, and how long anything waits at most."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from sage.common.core.functions import StartOrder
from sage.kernel.runtime.flow.start_queue import StartQueue


class ByKey(StartOrder):
    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes

    @property
    def window_bytes(self) -> int:
        return self._window_bytes

    def place(self, record: Any) -> tuple[Any, int]:
        return record, 1


def taken(queue: StartQueue, count: int) -> list[Any]:
    return [queue.take() for _ in range(count)]


def test_what_waits_is_given_out_by_key_and_equal_keys_in_input_order() -> None:
    queue = StartQueue(ByKey(100), 100)
    for entry, key in [("b1", "b"), ("a1", "a"), ("b2", "b"), ("a2", "a")]:
        queue.put(entry, key, 1)
    assert taken(queue, 5) == ["a1", "a2", "b1", "b2", None]
    assert queue.overtaken == 2  # both b, by the second a


def test_who_comes_joins_the_sweep_only_where_its_key_is_ahead() -> None:
    queue = StartQueue(ByKey(100), 100)
    for key in "bdf":
        queue.put(key, key, 1)
    assert taken(queue, 2) == ["b", "d"]
    for key in "ceg":
        queue.put(key, key, 1)
    assert taken(queue, 4) == ["e", "f", "g", "c"]


def test_a_sweep_takes_half_of_the_window() -> None:
    queue = StartQueue(ByKey(4), 100)
    for key in "dcba":
        queue.put(key, key, 1)
    assert queue.take() == "c"  # of d and c
    queue.put("e", "e", 1)  # ahead, but there is no room
    assert taken(queue, 4) == ["d", "a", "b", "e"]


@pytest.mark.parametrize("window_bytes", [0, 1])
def test_without_a_window_entries_stay_in_input_order(window_bytes: int) -> None:
    queue = StartQueue(ByKey(window_bytes), 100)
    for key in "cab":
        queue.put(key, key, 1)
    assert taken(queue, 3) == ["c", "a", "b"]
    assert queue.overtaken == 0


def test_what_is_larger_than_a_sweep_is_a_sweep_by_itself() -> None:
    queue = StartQueue(ByKey(10), 100)
    queue.put("large", "b", 99)
    queue.put("small", "a", 1)
    assert taken(queue, 2) == ["large", "small"]


def test_a_sweep_has_half_of_the_windows_records() -> None:
    order = ByKey(10_000)
    order.window_batches = 4
    queue = StartQueue(order, 2)
    for key in "fedcba":
        queue.put(key, key, 1)
    assert queue.take() == "c"  # of four
    queue.put("z", "z", 1)  # ahead, but there is no room
    assert taken(queue, 3) == ["d", "e", "f"]
    queue.max_in_flight = 1
    assert taken(queue, 3) == ["a", "b", "z"]


def test_put_says_when_who_takes_may_be_asleep() -> None:
    queue = StartQueue(ByKey(10), 100)
    assert [queue.put(n, n, 1) for n in range(3)] == [True, False, False]
    assert taken(queue, 4) == [0, 1, 2, None]
    assert queue.put(3, 3, 1)
    assert len(queue) == 1


WINDOW = 200

KEYS: dict[str, Callable[[int], Any]] = {
    "always before all others": lambda number: -number,
    "always where the sweep is": lambda number: number if number else 10**9,
    "one that comes last of all": lambda number: 10**9 if number % 50 == 0 else number % 7,
    "random": lambda _: random.random(),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_nothing_waits_longer_than_two_windows_whatever_the_keys(key: Callable[[int], Any]) -> None:
    queue, starts, longest, held = StartQueue(ByKey(WINDOW), 100), 0, 0, 0
    came: dict[int, int] = {}
    for number in range(5_000):
        came[number] = starts
        queue.put(number, key(number), 1)
        held += 1
        while held >= WINDOW or random.random() < 0.4:  # the window is full, or the engine is fast
            entry = queue.take()
            if entry is None:
                break
            longest = max(longest, starts - came.pop(entry))
            starts, held = starts + 1, held - 1
    while (entry := queue.take()) is not None:
        longest = max(longest, starts - came.pop(entry))
        starts += 1
    assert not came
    assert longest <= 2 * WINDOW
