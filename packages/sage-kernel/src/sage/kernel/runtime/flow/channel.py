"""Channel: a bounded queue between the threads of a pipeline."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from sage.kernel.runtime.cancelled import PipelineCancelledError


class Channel:
    """Carries records from any number of producers to any number of consumers, in order.

    ``put`` blocks while ``capacity`` records wait. Iterating ends when every producer has called
    ``finish`` and nothing is left. ``cancel`` makes both raise PipelineCancelledError.
    """

    def __init__(self, capacity: int, consumers: int = 1) -> None:
        self._capacity = capacity
        # A single consumer takes all that waits at once, so it locks once per batch, not per
        # record; several take one each, so that none hoards records that others could work on.
        self._take_all = consumers == 1
        self._records: deque[Any] = deque()
        self._lock = threading.Lock()
        self._readable = threading.Condition(self._lock)
        self._writable = threading.Condition(self._lock)
        self._producers = 0
        self._cancelled = False

    def add_producer(self) -> None:
        """Expect one more ``finish``."""
        self._producers += 1

    def put(self, record: Any) -> None:
        """Append a record, waiting for room."""
        with self._lock:
            while len(self._records) >= self._capacity and not self._cancelled:
                self._writable.wait()
            if self._cancelled:
                raise PipelineCancelledError
            self._records.append(record)
            self._readable.notify()

    def finish(self) -> None:
        """Say that one producer has no more records."""
        with self._lock:
            self._producers -= 1
            if self._producers == 0:
                self._readable.notify_all()

    def cancel(self) -> None:
        """Drop what waits and wake everybody."""
        with self._lock:
            self._cancelled = True
            self._records.clear()
            self._readable.notify_all()
            self._writable.notify_all()

    def __iter__(self) -> Iterator[Any]:
        while batch := self._take():
            for record in batch:
                if self._cancelled:  # a slow consumer must not finish its batch first
                    raise PipelineCancelledError
                yield record

    def _take(self) -> deque[Any]:
        with self._lock:
            while not self._records and self._producers and not self._cancelled:
                self._readable.wait()
            if self._cancelled:
                raise PipelineCancelledError
            if self._take_all or not self._records:
                batch, self._records = self._records, deque()
                self._writable.notify_all()
            else:
                batch = deque((self._records.popleft(),))
                self._writable.notify()
            return batch
