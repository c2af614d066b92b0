"""Checkpoints: as often as was asked for, or seldom enough not to be felt."""

from __future__ import annotations

import time

from sage.tuning.training.progress import Saves


def test_by_default_checkpoints_take_a_small_share_of_the_time() -> None:
    saves = Saves(None, 400)
    assert [step for step in range(1, 61) if saves.is_due(step)] == [20, 40, 60]
    began = time.monotonic()
    saves.begin()
    time.sleep(0.01)
    written = time.monotonic()
    saves.end()
    took = time.monotonic() - began
    while not saves.is_due(40):
        assert time.monotonic() - written < 50 * took + 30
        time.sleep(0.01)
    assert time.monotonic() - written >= 0.4
    assert not saves.is_due(41)


def test_what_was_asked_for_is_obeyed() -> None:
    saves = Saves(7, 400)
    saves.begin()
    time.sleep(0.01)
    saves.end()
    assert [step for step in range(1, 15) if saves.is_due(step)] == [7, 14]
