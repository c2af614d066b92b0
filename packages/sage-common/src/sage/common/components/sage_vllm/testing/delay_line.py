"""DelayLine: completes Futures some time later, all of them from one thread."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from copy import copy
from itertools import count
from typing import Any


class DelayLine:
    """Completes each Future with what its function returns or raises, once its time has come."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Future[Any], Callable[[], Any]]] = []
        self._numbers = count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed: Exception | None = None

    def __len__(self) -> int:
        """Return how many have neither been completed nor cancelled yet."""
        with self._changed:
            return sum(not future.done() for _, _, future, _ in self._waiting)

    def later(self, seconds: float, complete: Callable[[], Any]) -> Future[Any]:
        """Return a Future of what ``complete()`` returns in so many seconds; 0 is at once.

        Raises the error that it was closed with.
        """
        future: Future[Any] = Future()
        if not seconds and self._closed is None:
            complete_future(future, complete)
            return future
        with self._changed:
            if self._closed is not None:
                raise copy(self._closed)
            entry = (time.monotonic() + seconds, next(self._numbers), future, complete)
            heapq.heappush(self._waiting, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sage-echo", daemon=True)
                self._thread.start()
            self._changed.notify()
        return future

    def close(self, error: Exception, *, drain: bool = False) -> None:
        """Fail what waits with the error, or complete it first; then end the thread."""
        with self._changed:
            while drain and self._waiting:
                self._changed.wait()
            self._closed = error
            waiting, self._waiting = self._waiting, []
            self._changed.notify_all()
        for _, _, future, _ in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while (due := self._take()) is not None:
            complete_future(*due)
            with self._changed:
                self._changed.notify_all()  # a close() that drains
            del due

    def _take(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            while self._closed is None:
                left = self._waiting[0][0] - time.monotonic() if self._waiting else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._waiting)[2:]
                self._changed.wait(left)
            return None


def complete_future(future: Future[Any], complete: Callable[[], Any]) -> None:
    """Complete a Future with what a function returns or raises, unless it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = complete()
    except Exception as error:  # noqa: BLE001 - it is the Future's
        future.set_exception(error)
        del future  # the error's traceback refers to this frame
    else:
        future.set_result(result)
