"""WriteLock: one writer of a collection at a time, among threads and processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sage.common.core.file_locks import file_lock

_POLL_SECONDS = 0.001  # a write takes some milliseconds, and the next one follows at once


class WriteLock:
    """A thread lock, then a file lock: threads wait for each other without polling.

    The operating system frees the file lock of a process that dies.
    """

    def __init__(self, path: Path) -> None:
        self._threads = threading.Lock()
        self._processes = file_lock(path, thread_local=False)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it for the length of a block."""
        with self._threads:
            self._processes.acquire(poll_interval=_POLL_SECONDS)
            try:
                yield
            finally:
                self._processes.release()
