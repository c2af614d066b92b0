"""CacheStore: the file of a result cache, an SQLite database that processes share."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sage.common.core.file_locks import file_lock

FILE = "results.sqlite"
_VERSION = 1
_BUSY_SECONDS = 10.0
_TRIM_TO = 0.9  # of the limit, so that not each answer that comes has one go

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, model TEXT NOT NULL,
    created REAL NOT NULL, used REAL NOT NULL, size INTEGER NOT NULL, value BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS answers_by_use ON answers (used);
CREATE TABLE IF NOT EXISTS total (bytes INTEGER NOT NULL);
INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT * FROM total);
CREATE TRIGGER IF NOT EXISTS answer_added AFTER INSERT ON answers
    BEGIN UPDATE total SET bytes = bytes + new.size; END;
CREATE TRIGGER IF NOT EXISTS answer_changed AFTER UPDATE OF size ON answers
    BEGIN UPDATE total SET bytes = bytes + new.size - old.size; END;
CREATE TRIGGER IF NOT EXISTS answer_dropped AFTER DELETE ON answers
    BEGIN UPDATE total SET bytes = bytes - old.size; END;
"""
_PUT = """
INSERT INTO answers (key, model, created, used, size, value) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET created = excluded.created, used = excluded.used,
    size = excluded.size, value = excluded.value
"""
_OVERHEAD = 128  # bytes of a row beside its value: its key, times, and places in two indexes


@dataclass(frozen=True, kw_only=True)
class KeptOfModel:
    """What a cache has of one model; times are seconds since 1970."""

    model: str
    answers: int
    bytes: int
    oldest: float
    last_used: float


class CacheStore:
    """One connection to the file; for one thread at a time.

    Raises sqlite3.Error and OSError. Processes write in turn, and read meanwhile; one that is
    killed leaves what it had committed (SQLite's WAL mode, which needs a file system of this
    machine).
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # answers are nobody else's
        self._database = sqlite3.connect(
            folder / FILE, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._open(folder)
        except BaseException:
            self._database.close()
            raise

    def _open(self, folder: Path) -> None:
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"{FILE} is of a later version, {version}")
        if version == 0:
            with file_lock(folder / "results.lock"):  # changing the mode waits for nobody
                self._make()
        self._database.execute("PRAGMA synchronous = NORMAL")

    def _make(self) -> None:
        if self._database.execute("PRAGMA user_version").fetchone()[0]:
            return
        self._database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table
        self._database.execute("PRAGMA journal_mode = WAL")
        with self._transaction():
            for statement in _statements(_SCHEMA):
                self._database.execute(statement)
            self._database.execute(f"PRAGMA user_version = {_VERSION}")

    def get(self, key: bytes) -> tuple[bytes, float, float] | None:
        """Return a value, and when it was made and used, in seconds since 1970."""
        rows = self._database.execute(
            "SELECT value, created, used FROM answers WHERE key = ?", (key,)
        ).fetchall()
        return rows[0] if rows else None

    def put(
        self, kept: Mapping[bytes, tuple[str, bytes]], used: Iterable[bytes], max_bytes: int | None
    ) -> None:
        """Keep values with their models' names, note which were used, and trim."""
        now = time.time()
        rows = [
            (key, model, now, now, len(value) + _OVERHEAD, value)
            for key, (model, value) in kept.items()
        ]
        with self._transaction():
            self._database.executemany(_PUT, rows)
            self._database.executemany(
                "UPDATE answers SET used = ? WHERE key = ?", [(now, key) for key in used]
            )
            if max_bytes is not None and self._total() > max_bytes:
                self._trim(int(max_bytes * _TRIM_TO))

    def prune(self, *, max_bytes: int | None = None, unused_seconds: float | None = None) -> int:
        """Drop answers not used for so long, then the longest unused; return how many."""
        before = self._database.total_changes
        dropped = 0
        with self._transaction():
            if unused_seconds is not None:
                done = self._database.execute(
                    "DELETE FROM answers WHERE used < ?", (time.time() - unused_seconds,)
                )
                dropped += done.rowcount
            if max_bytes is not None and self._total() > max_bytes:
                dropped += self._trim(max_bytes)
        if self._database.total_changes > before:
            self._shrink()
        return dropped

    def contents(self) -> list[KeptOfModel]:
        """Return what there is of each model, those with the most first."""
        rows = self._database.execute(
            "SELECT model, count(*), sum(size), min(created), max(used) FROM answers "
            "GROUP BY model ORDER BY 3 DESC, 1"
        )
        return [
            KeptOfModel(model=model, answers=count, bytes=size, oldest=oldest, last_used=used)
            for model, count, size, oldest, used in rows.fetchall()
        ]

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def _total(self) -> int:
        total: int = self._database.execute("SELECT bytes FROM total").fetchone()[0]
        return total

    def _trim(self, target: int) -> int:
        """Drop answers, the longest unused first, until the others are below ``target``."""
        excess, dropped = self._total() - target, []
        oldest = self._database.execute("SELECT id, size FROM answers ORDER BY used")
        for number, size in oldest:
            dropped.append((number,))
            excess -= size
            if excess <= 0:
                break
        oldest.close()
        self._database.executemany("DELETE FROM answers WHERE id = ?", dropped)
        return len(dropped)

    def _shrink(self) -> None:
        # As a script: execute() takes the first of its steps alone, which frees one page.
        self._database.executescript("PRAGMA incremental_vacuum")
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines():
        statement += f"{line}\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
