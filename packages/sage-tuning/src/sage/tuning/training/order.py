"""The order of training: which rows each step has, known before the first."""

from __future__ import annotations

import random

from sage.tuning.settings import Settings


def order_of(settings: Settings, *, steps: int, own: int, replayed: int, replay: int) -> list[int]:
    """Return the rows of all steps, one behind the other, ``settings.batch_size`` for each step.

    Each epoch has every own row once, 0 to ``own`` - 1, and ``replayed`` others, drawn anew of the
    ``replay`` rows behind those. It depends on the seed and the epoch alone, so that training can
    go on anywhere.
    """
    rows: list[int] = []
    epoch = 0
    while len(rows) < steps * settings.batch_size:
        dice = random.Random(f"{settings.seed} {epoch}")
        drawn = [own + each for each in dice.sample(range(replay), replayed)]
        rows += dice.sample([*range(own), *drawn], own + replayed)
        epoch += 1
    return rows[: steps * settings.batch_size]
