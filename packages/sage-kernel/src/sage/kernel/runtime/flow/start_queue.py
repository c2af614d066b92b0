"""StartQueue: the records of a window that wait for their start, in a StartOrder's order."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from typing import Any

from sage.common.core.functions import StartOrder


class StartQueue:
    """Gives entries out in sweeps; see StartOrder. One thread takes, another may put.

    A sweep takes at most half of the window: so the other half fills while it goes on, and the
    next one begins when it ends. A record waits for what is left of the sweep under way when
    it comes, perhaps for the next one, and for others of its own: a window and a half at most.

    Args:
        order: says how large the window is.
        max_in_flight: records that are at work at once; may be set anew.
    """

    def __init__(self, order: StartOrder, max_in_flight: int) -> None:
        self._order = order
        self.max_in_flight = max_in_flight
        self._lock = threading.Lock()
        # Both of (key, number of arrival, bytes, entry); no two have the same number.
        self._sweep: list[tuple[Any, int, int, Any]] = []  # a heap
        self._next: deque[tuple[Any, int, int, Any]] = deque()  # in input order
        self._sweep_bytes = self._sweep_records = 0  # of all that it began with or that joined it
        self._position: tuple[Any, int] = (None, -1)  # of the entry that was taken last
        self._arrivals = 0
        self._highest = -1  # number that was taken
        self.overtaken = 0
        """Records that were taken after one that came later."""

    def __len__(self) -> int:
        return len(self._sweep) + len(self._next)

    def put(self, entry: Any, key: Any, size: int) -> bool:
        """Add an entry; return whether it is the only one, so that who takes may be asleep."""
        with self._lock:
            alone = not len(self)
            place = (key, self._arrivals)
            self._arrivals += 1
            if self._sweep and self._has_room(size) and place > self._position:
                self._count(size)
                heapq.heappush(self._sweep, (*place, size, entry))
            else:
                self._next.append((*place, size, entry))
            return alone

    def take(self) -> Any | None:
        """Return the entry to start now; None if there is none."""
        with self._lock:
            if not self._sweep:
                self._begin()
            if not self._sweep:
                return None
            key, number, _, entry = heapq.heappop(self._sweep)
            self._position = (key, number)
            self.overtaken += number < self._highest
            self._highest = max(number, self._highest)
            return entry

    def _has_room(self, size: int) -> bool:
        most = self._order.window_batches * self.max_in_flight // 2
        fits = self._sweep_bytes + size <= self._order.window_bytes // 2
        return fits and self._sweep_records < most

    def _count(self, size: int) -> None:
        self._sweep_records += 1
        self._sweep_bytes += size

    def _begin(self) -> None:
        """Make a sweep of those that wait: of the first one at least."""
        self._sweep_bytes = self._sweep_records = 0
        waiting = self._next
        while waiting and (not self._sweep or self._has_room(waiting[0][2])):
            self._count(waiting[0][2])
            self._sweep.append(waiting.popleft())
        heapq.heapify(self._sweep)
