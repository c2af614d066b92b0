"""full_jitter: how long to wait before something is tried again."""

from __future__ import annotations

import random

_MOST_DOUBLINGS = 32  # far above any cap, and no overflow


def full_jitter(first: float, attempts: int, cap: float) -> float:
    """Return the seconds to wait after a number of failed attempts.

    That is anything from none to ``first`` seconds, twice as many after each further attempt, but
    never more than ``cap``: what failed together is not tried again together ("Exponential Backoff
    And Jitter", AWS Architecture Blog, 2015).
    """
    most = min(cap, first * 2 ** min(attempts - 1, _MOST_DOUBLINGS))
    return random.uniform(0, most)
