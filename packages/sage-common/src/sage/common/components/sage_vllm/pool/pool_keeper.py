"""PoolKeeper: the thread that loads and unloads models while calls wait or times run out."""

from __future__ import annotations

import threading
from collections.abc import Callable

_LEAST_SECONDS = 0.005  # between two looks: calls may end by the thousand in a second


class PoolKeeper:
    """Calls ``tend`` again and again, from a thread that ends when there is nothing to do.

    ``tend`` returns the seconds until it wants to be called again, infinity if only something that
    happens can give it work, and None if there is nothing to wait for.
    """

    def __init__(self, tend: Callable[[], float | None]) -> None:
        self._tend = tend
        self._changed = threading.Condition()
        self._news = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Have ``tend`` called soon."""
        with self._changed:
            self._news = True
            if self._thread is None and not self._closed:
                # A daemon, so that a forgotten service does not hang the interpreter's end.
                self._thread = threading.Thread(target=self._run, name="sage-pool", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def nudge(self) -> None:
        """Have ``tend`` called soon if it waits for something to happen."""
        if self._thread is not None:
            self.wake()

    def close(self) -> None:
        """End the thread, and start no other."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._news = False
            seconds = self._tend()
            with self._changed:
                if self._closed or (seconds is None and not self._news):
                    self._thread = None
                    return
                self._changed.wait_for(lambda: self._closed, _LEAST_SECONDS)
                limit = threading.TIMEOUT_MAX if seconds is None else seconds
                limit = min(limit, threading.TIMEOUT_MAX)
                self._changed.wait_for(lambda: self._closed or self._news, limit)
