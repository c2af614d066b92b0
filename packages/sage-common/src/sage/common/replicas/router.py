"""Router: which of several equal engines, or machines, a call goes to."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

_BOUND = 1.25  # times the mean of all: a replica with more calls in flight takes no more


class Router(Protocol):
    """Chooses among replicas, which are known by their numbers."""

    def route(self, prefix: str, in_flight: Sequence[int | None]) -> int | None:
        """Return the number of the replica for a call; None if none accepts calls.

        Args:
            prefix: the beginning of the prompt; calls with equal ones should meet.
            in_flight: each replica's calls in flight; None for one that accepts none.
        """
        ...


class PrefixRouter:
    """Sends equal prefixes to the same replicas, which have them in their KV caches.

    It remembers nothing, so that any number of routers agree. Each prefix ranks the replicas by
    rendezvous hashing, and a call goes to the one of the first two with fewer calls in flight. So a
    replica that comes or goes moves only the prefixes that it gets or had. A prefix that is too
    popular spills over: where the chosen one has more than 1.25 times the mean of all, the call
    goes to the replica with the fewest.
    """

    def route(self, prefix: str, in_flight: Sequence[int | None]) -> int | None:
        """Return the number of the replica for a call; see Router."""
        loads = {number: load for number, load in enumerate(in_flight) if load is not None}
        if not loads:
            return None
        least = min(loads, key=loads.__getitem__)
        if not prefix or len(loads) == 1:
            return least
        ranked = sorted(loads, key=lambda number: _weight(prefix, number), reverse=True)
        chosen = min(ranked[:2], key=loads.__getitem__)
        mean = sum(loads.values()) / len(loads)
        return chosen if loads[chosen] <= max(1.0, _BOUND * mean) else least


def _weight(prefix: str, number: int) -> bytes:
    key = f"{number}\0{prefix}".encode("utf-8", "surrogatepass")
    return blake2b(key, digest_size=8).digest()
