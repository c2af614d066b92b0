"""CheckpointStore: a few values in an SQLite file, changed together or not at all."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

from sage.common.core.file_locks import has_locks
from sage.kernel.runtime.checkpoint.errors import CheckpointError, CheckpointInUseError

logger = logging.getLogger(__name__)

_SET_UP = (
    "PRAGMA locking_mode = EXCLUSIVE",  # held from the first write on; it dies with the process
    "PRAGMA journal_mode = WAL",  # a commit is then one append and one fsync
    "PRAGMA synchronous = FULL",
    "BEGIN IMMEDIATE",
    "CREATE TABLE IF NOT EXISTS checkpoint (key TEXT PRIMARY KEY, value TEXT NOT NULL)"
    " WITHOUT ROWID",  # one page holds it all: 4 KB to write at a commit
    "COMMIT",
)
_BEGIN_ANEW = "delete the folder to begin anew"


class CheckpointStore:
    """Open from construction to ``close()``, by one run at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = self._path = folder / "checkpoint.sqlite"
        self._made_folder = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.has_locks = has_locks(folder)
            if not self.has_locks:
                logger.warning(
                    "the file system of %s has no locks: see to it that no second run uses this "
                    "checkpoint",
                    folder,
                )
            # One thread at a time uses it: the checkpoint's own, then the one that ends the run.
            self._db = connect(path, locks=self.has_locks, timeout=0)
        except (OSError, sqlite3.Error) as error:
            raise CheckpointError(str(folder), f"cannot be opened: {error}") from error
        try:
            for statement in _SET_UP:
                self._db.execute(statement)
        except sqlite3.Error as error:
            self._db.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise CheckpointInUseError(
                    str(folder),
                    "another run is using it",
                    hint="wait for its end or take another folder",
                ) from error
            broken = error.sqlite_errorcode in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
            raise CheckpointError(
                str(folder),
                f"{path} cannot be opened: {error}",
                hint=_BEGIN_ANEW if broken else None,
            ) from error

    def read(self) -> dict[str, Any]:
        """Return what the last commit left; empty before the first."""
        try:
            rows = self._db.execute("SELECT key, value FROM checkpoint").fetchall()
            return {key: json.loads(value) for key, value in rows}
        except (sqlite3.Error, ValueError) as error:
            raise CheckpointError(
                str(self.folder), f"cannot be read: {error}", hint=_BEGIN_ANEW
            ) from error

    def write(self, **values: Any) -> None:
        """Commit new values of some keys; on return they outlive a power cut."""
        rows = [(key, json.dumps(value)) for key, value in values.items()]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO checkpoint VALUES (?, ?)", rows)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):  # often SQLite did so already
                self._db.execute("ROLLBACK")
            raise CheckpointError(
                str(self.folder),
                f"cannot be written: {error}",
                hint="what was committed before is safe: submit again when there is room",
            ) from error

    def close(self) -> None:
        """Let go of the file; may be called more than once."""
        with suppress(sqlite3.Error):  # a full disk: the log of changes stays, to be read again
            self._db.close()

    def discard(self) -> None:
        """Let go of the file and remove it, with the folder if that was made for it."""
        with suppress(sqlite3.Error, OSError):
            # While it is locked; its log goes first, for that of a successor has the same name.
            self._db.execute("PRAGMA journal_mode = MEMORY")
            self._path.unlink()
            if self._made_folder:
                self.folder.rmdir()
        self.close()


def connect(path: Path, *, locks: bool, timeout: float) -> sqlite3.Connection:
    """Open a database in a checkpoint's folder, without a lock where the file system has none.

    It waits ``timeout`` seconds for another one's lock.
    """
    address = path.absolute().as_uri() + ("" if locks else "?vfs=unix-none")
    return sqlite3.connect(
        address, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
    )
