"""Alarms: calls that are made later, all from one thread."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from itertools import count

logger = logging.getLogger(__name__)


class Alarms:
    """Makes each call when its time has come, on one daemon thread that the first one starts.

    A call must not last: those after it wait. ``name`` is the thread's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._tie_break = count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Make a call so many seconds from now, unless ``close()`` comes before."""
        entry = (time.monotonic() + seconds, next(self._tie_break), call)
        with self._changed:
            heapq.heappush(self._due, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            elif self._due[0] is entry:
                self._changed.notify()

    def close(self) -> None:
        """End the thread; calls that were to come are not made."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify()

    def _run(self) -> None:
        while (call := self._take()) is not None:
            try:
                call()
            except Exception:
                logger.exception("%s: a call that was due", self._name)
            del call  # it may keep a result

    def _take(self) -> Callable[[], None] | None:
        """Wait for the next call that is due; None after close()."""
        with self._changed:
            while not self._closed:
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait)
            return None
