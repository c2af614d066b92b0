"""How long OpenMP's threads spin where they wait for each other.

libgomp, which torch comes with, lets them spin for milliseconds at each barrier. Beside a process
that keeps the cores busy, a thread that spins keeps its core from the one that it waits for, and an
engine falls to a seventh of its speed. Some 10,000 turns, a fraction of a millisecond, outlast the
gaps between a step's operations; after that a thread sleeps.
"""

from __future__ import annotations

import os

_VARIABLE = "GOMP_SPINCOUNT"
_TURNS = 10_000


def bounded_spinning() -> dict[str, str]:
    """Return the setting for the environment that libgomp is loaded in, once in each process.

    It is empty where the user has chosen how threads wait.
    """
    chosen = _VARIABLE in os.environ or "OMP_WAIT_POLICY" in os.environ
    return {} if chosen else {_VARIABLE: str(_TURNS)}
