"""Room: how many records a window holds, and how many bytes."""

from __future__ import annotations

import threading

from sage.common.core.functions import StartOrder
from sage.kernel.runtime.cancelled import PipelineCancelledError


class Room:
    """Has room for ``size`` records, or for more as far as a StartOrder's window goes.

    A record is in it from ``enter`` until ``leave``.
    """

    def __init__(self, size: int, order: StartOrder | None) -> None:
        self._size = size
        self._order = order
        self._records = self._bytes = 0
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

    def leave(self, size: int) -> None:
        """Let a record go."""
        with self._changed:
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
        return (
            order is not None
            and self._records < order.window_batches * self._size
            and self._bytes + size <= order.window_bytes
        )
