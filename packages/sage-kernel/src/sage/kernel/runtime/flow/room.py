"""Room: how many records a window holds, and how many bytes."""

from __future__ import annotations

import threading

from sage.common.core.functions import StartOrder
from sage.kernel.runtime.cancelled import PipelineCancelledError


class Room:
    """Has room for ``size`` records, or for more as far as a StartOrder's window goes.

    A record is in it from ``enter`` until ``leave``, and held from ``hold`` on.
    """

    def __init__(self, size: int, order: StartOrder | None) -> None:
        self._size = size
        self._order = order
        self._records = self._bytes = self._held = 0
        self._changed = threading.Condition()
        self._cancelled = False

    def enter(self, size: int) -> None:
        """Take a record of so many bytes in, waiting for room; raises PipelineCancelledError."""
        with self._changed:
            while not (self._cancelled or self._fits(size)):
                self._changed.wait()
            if self._cancelled:
                raise PipelineCancelledError
            self._records += 1
            self._bytes += size

    def hold(self) -> None:
        """Note that a record is done, and stays until those before it are."""
        with self._changed:
            self._held += 1
            if self._order is not None:  # else only one that leaves makes room
                self._changed.notify()

    def leave(self, size: int) -> None:
        """Let a record go that is held."""
        with self._changed:
            self._held -= 1
            self._records -= 1
            self._bytes -= size
            self._changed.notify()

    def resize(self, size: int) -> None:
        """Have room for so many records from now on."""
        with self._changed:
            self._size = size
            self._changed.notify_all()

    def cancel(self) -> None:
        """Let nothing in any more."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        if self._records < self._size:
            return True
        order = self._order
        if order is None:
            return False
        batches, total = self._records / self._size, self._bytes + size
        if batches < order.window_batches and total <= order.window_bytes:
            return True
        is_short_of_work = self._records - self._held < self._size
        return is_short_of_work and batches < order.held_batches and total <= order.held_bytes
