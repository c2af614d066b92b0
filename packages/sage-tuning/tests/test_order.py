"""The order of rows: every one once in an epoch, the same each time, lengths of a kind together."""

from __future__ import annotations

import random
from collections import Counter

from sage.tuning.settings import Settings
from sage.tuning.training.order import filled_share, order_of

COUNTS = {"steps": 30, "own": 100, "replayed": 20, "replay": 50}


def test_each_epoch_has_every_own_row_once_and_others_drawn_anew() -> None:
    order = order_of(Settings(), **COUNTS)
    assert order == order_of(Settings(), **COUNTS)
    assert order != order_of(Settings(seed=1), **COUNTS)
    assert len(order) == 480
    epochs = [order[start : start + 120] for start in (0, 120, 240, 360)]
    for epoch in epochs:
        assert set(range(100)) < set(epoch)
        assert len(set(epoch)) == 120
    assert len({frozenset(epoch) for epoch in epochs}) == 4


def test_rows_of_a_like_length_share_a_step_where_that_saves_much() -> None:
    dice = random.Random(2)
    lengths = [dice.choice([10, 200]) for _ in range(150)]
    plain, grouped = order_of(Settings(), **COUNTS), order_of(Settings(), **COUNTS, lengths=lengths)
    assert grouped == order_of(Settings(), **COUNTS, lengths=lengths)
    assert Counter(grouped) == Counter(plain)
    assert filled_share(plain, lengths, 16) > 0.4
    assert filled_share(grouped, lengths, 16) < 0.2
    first = [lengths[row] for row in grouped[: 8 * 16]]
    assert first != sorted(first)  # short ones do not come first each time
    alike = [22 + row % 5 for row in range(150)]
    assert order_of(Settings(), **COUNTS, lengths=alike) == plain
