"""WriteLock: one writer of a collection at a time, among threads and processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sage.common.core.file_locks import file_lock

if TYPE_CHECKING:
    from filelock import BaseFileLock

_POLL_SECONDS = 0.001  # a write takes some milliseconds, and the next one follows at once


class WriteLock:
    """A thread lock, then a file lock: threads wait for each other without polling.

    The operating system frees the file lock of a process that dies; see ``file_lock()`` for file
    systems that have no locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.Lock()
        self._processes: BaseFileLock | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it for the length of a block; its folder has to be there."""
        with self._threads:
            if self._processes is None:  # only a folder that is there tells what locks it has
                self._processes = file_lock(self._path, thread_local=False)
            self._processes.acquire(poll_interval=_POLL_SECONDS)
            try:
                yield
            finally:
                self._processes.release()
