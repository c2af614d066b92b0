"""ReplayQueue: the calls of an engine or process that died, on their way into the next one."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, MutableMapping
from typing import Any, Generic, Protocol, TypeVar

SUSPECT = 2
"""Crashes from which on a call may be what kills whoever works on it."""


class Replayed(Protocol):
    """A call that can be made again; ``crashes`` counts those who died while they worked on it."""

    crashes: int


_C = TypeVar("_C", bound=Replayed)


class ReplayQueue(Generic[_C]):
    """Decides what is replayed together and what alone, and finds the call that kills.

    After a first crash all calls are replayed together: usually none of them caused it. Calls that
    were in a second crash are suspects, and are replayed one at a time; a call that is alone in a
    crash then is poison. The others are replayed together again.

    Args:
        poison_from: how many crashes a call was in, the one alone included, when it is given up.
    """

    def __init__(self, poison_from: int = SUSPECT) -> None:
        self._waiting: deque[_C] = deque()
        self._poison_from = poison_from

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def head(self) -> _C:
        """The call that is taken next."""
        return self._waiting[0]

    def append(self, call: _C) -> None:
        """Queue a call that came while others were waiting."""
        self._waiting.append(call)

    def take(self, in_flight: Collection[_C]) -> _C | None:
        """Return the next call that may go beside those in flight, or None.

        Those in flight are of one who works on them; with several there may be several suspects at
        once, each alone.
        """
        if in_flight and (_is_suspect(self._waiting[0]) or _is_suspect(next(iter(in_flight)))):
            return None
        return self._waiting.popleft()

    def put_back(self, in_flight: MutableMapping[Any, _C]) -> _C | None:
        """Take over what a dead one had in flight; return the call that is poison."""
        crashed = list(in_flight.values())
        in_flight.clear()
        for call in crashed:
            call.crashes += 1
        if len(crashed) == 1 and crashed[0].crashes >= self._poison_from:
            for call in self._waiting:
                call.crashes = min(call.crashes, SUSPECT - 1)
            return crashed[0]
        self._waiting.extendleft(reversed(crashed))
        return None

    def clear(self) -> list[_C]:
        """Forget and return all calls."""
        calls = list(self._waiting)
        self._waiting.clear()
        return calls


def _is_suspect(call: Replayed) -> bool:
    return call.crashes >= SUSPECT
