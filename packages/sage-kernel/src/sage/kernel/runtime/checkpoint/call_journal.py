"""CallJournal: what service calls resulted in, of records that are not done yet."""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sage.kernel.runtime.checkpoint.errors import CheckpointError
from sage.kernel.runtime.checkpoint.store import connect

_SET_UP = (
    "PRAGMA locking_mode = EXCLUSIVE",  # the checkpoint that it belongs to is open once
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",  # no fsync at a commit: see the class
    "CREATE TABLE IF NOT EXISTS calls"
    " (id INTEGER PRIMARY KEY, position INTEGER NOT NULL, key BLOB NOT NULL, result BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS calls_by_position ON calls (position)",
)


class CallJournal:
    """Open from construction to ``close()``; for any thread.

    A result is in the file before its caller gets it, so that a kill costs each record in flight
    no call but those that it waits for. After a power cut the latest results may be missing; these
    calls are made again.

    Args:
        folder: that of a checkpoint which this run has open.
        locks: whether its file system has them.
    """

    def __init__(self, folder: Path, *, locks: bool) -> None:
        self._folder = folder
        self._path = self.path_in(folder)
        self._lock = threading.Lock()
        self._closed = False
        self.on_failure: Callable[[BaseException], None] = lambda _error: None
        try:
            self._db = connect(self._path, locks=locks, timeout=5)
            for statement in _SET_UP:
                self._db.execute(statement)
            rows = self._db.execute("SELECT position, key, result FROM calls ORDER BY id")
            self._found: defaultdict[tuple[int, bytes], deque[bytes]] = defaultdict(deque)
            for position, key, result in rows:
                self._found[position, key].append(result)
        except sqlite3.Error as error:
            raise CheckpointError(
                str(folder), f"{self._path} cannot be read: {error}", hint="delete that file"
            ) from error

    @staticmethod
    def path_in(folder: Path) -> Path:
        """Return where the journal of a checkpoint is, if it has one."""
        return folder / "calls.sqlite"

    def __bool__(self) -> bool:
        """Whether an earlier run left results."""
        return bool(self._found)

    def take(self, position: int, key: bytes) -> bytes | None:
        """Return the result of a call that an earlier run made; each is returned once."""
        with self._lock:
            results = self._found.get((position, key))
            return results.popleft() if results else None

    def keep(self, position: int, key: bytes, result: bytes) -> None:
        """Keep the result of a call until all before a later position of the source is done."""
        with self._lock:
            if self._closed:  # a call that outlived its run
                return
            try:
                self._write(
                    "INSERT INTO calls (position, key, result) VALUES (?, ?, ?)",
                    position,
                    key,
                    result,
                )
            except CheckpointError as error:
                failure = error
            else:
                return
        self.on_failure(failure)

    def forget_before(self, position: int) -> None:
        """Drop what belongs to records that are done; raises CheckpointError."""
        with self._lock:
            for place in [place for place in self._found if place[0] < position]:
                del self._found[place]
            self._write("DELETE FROM calls WHERE position < ?", position)

    def _write(self, statement: str, *values: Any) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise CheckpointError(
                str(self._folder),
                f"{self._path} cannot be written: {error}",
                hint="what was kept before is safe: submit again when there is room",
            ) from error

    def close(self, *, forget: bool = False) -> bool:
        """Let go of the file; it goes if it is empty, or may be forgotten. Return if it stays."""
        with self._lock, suppress(sqlite3.Error):
            if not self._closed:
                self._closed = True
                left = self._db.execute("SELECT EXISTS (SELECT * FROM calls)").fetchone()[0]
                if not forget and left:
                    self._db.close()
                    return True
                self._db.execute("PRAGMA journal_mode = MEMORY")  # removes the log beside it
                self._db.close()
                self._path.unlink(missing_ok=True)
        return False
