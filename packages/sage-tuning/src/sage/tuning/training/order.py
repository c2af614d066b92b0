"""The order of training: which rows each step has, known before the first."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sage.tuning.settings import Settings

_STEPS = 8
"""Rows of a like length are put together within so many steps, which epochs hardly mix."""
_MUCH = 0.3
"""The share of a step that may be filled up in vain."""


def order_of(
    settings: Settings,
    *,
    steps: int,
    own: int,
    replayed: int,
    replay: int,
    lengths: Sequence[int] = (),
) -> list[int]:
    """Return the rows of all steps, one behind the other, ``settings.batch_size`` for each step.

    Each epoch has every own row once, 0 to ``own`` - 1, and ``replayed`` others, drawn anew of the
    ``replay`` rows behind those. It depends on the seed and the epoch alone, so that training can
    go on anywhere. Where the rows' ``lengths`` in tokens differ much, rows of a like length share a
    step: all rows of a step are filled up to its longest.
    """
    rows: list[int] = []
    epoch = 0
    while len(rows) < steps * settings.batch_size:
        dice = random.Random(f"{settings.seed} {epoch}")
        drawn = [own + each for each in dice.sample(range(replay), replayed)]
        rows += dice.sample([*range(own), *drawn], own + replayed)
        epoch += 1
    rows = rows[: steps * settings.batch_size]
    if lengths and filled_share(rows, lengths, settings.batch_size) > _MUCH:
        return _beside_their_like(rows, lengths, settings)
    return rows


def filled_share(rows: Sequence[int], lengths: Sequence[int], size: int) -> float:
    """Return the share of tokens that only fill rows up, in steps of ``size`` rows."""
    starts = range(0, len(rows), size)
    longest = [max(lengths[row] for row in rows[start : start + size]) for start in starts]
    return 1 - sum(lengths[row] for row in rows) / (size * sum(longest))


def _beside_their_like(
    rows: Sequence[int], lengths: Sequence[int], settings: Settings
) -> list[int]:
    size, dice = settings.batch_size, random.Random(f"{settings.seed} lengths")
    ordered: list[int] = []
    for start in range(0, len(rows), _STEPS * size):
        block = sorted(rows[start : start + _STEPS * size], key=lambda row: lengths[row])
        steps = [block[place : place + size] for place in range(0, len(block), size)]
        dice.shuffle(steps)
        ordered += [row for step in steps for row in step]
    return ordered
