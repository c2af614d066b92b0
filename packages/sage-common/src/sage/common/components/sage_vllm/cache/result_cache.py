"""ResultCache: a folder that keeps answers, for any number of processes at once."""

from __future__ import annotations

import atexit
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from sage.common.components.sage_vllm.cache.cache_settings import CacheSettings
from sage.common.components.sage_vllm.cache.cache_store import CacheStore

logger = logging.getLogger(__name__)

_BATCH = 256  # answers that are written at once
_TOUCH_AFTER = 60.0  # seconds; which answers were used last need not be known more exactly
_CLOSE_SECONDS = 30.0


class ResultCache:
    """Finds and keeps answers by their keys; thread-safe.

    It never fails whoever uses it: an error is counted, the first one is logged, and there is no
    answer. What is to be kept is written by a thread of its own, soon after.
    """

    def __init__(self, settings: CacheSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()  # guards the store that is read, and the counts
        self._store: CacheStore | None = None
        self._broken = False
        self._work: SimpleQueue[tuple[bytes, str, Callable[[], bytes | None] | None] | None] = (
            SimpleQueue()
        )
        self._writer: threading.Thread | None = None
        self._closed = False
        self.hits = self.misses = self.kept = self.skipped = self.errors = 0

    def find(self, key: bytes) -> bytes | None:
        """Return what is kept under a key, or None."""
        now = time.time()
        with self._lock:
            found = self._read(key)
            if found is None or self._is_old(found[1], now):
                self.misses += 1
                return None
            self.hits += 1
        value, _, used = found
        if now - used > _TOUCH_AFTER:
            self._do(key, "", None)
        return value

    def keep(self, key: bytes, model: str, value: Callable[[], bytes | None]) -> None:
        """Keep what ``value`` will return, unless that is None, for the model of this name."""
        self._do(key, model, value)

    def skip(self) -> None:
        """Note a request whose answer is not determined, and so neither found nor kept."""
        with self._lock:
            self.skipped += 1
            first = self.skipped == 1
        if first:
            logger.warning(
                "the result cache in %s keeps no answers that are drawn at random (pass "
                "temperature=0, or a seed), and none to pictures",
                self.settings.folder,
            )

    def count_error(self, error: Exception) -> None:
        """Note that what was kept could not be used."""
        with self._lock:
            self._note(error)

    def record(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        counts = ("hits", "misses", "kept", "skipped", "errors")
        return {
            "folder": str(self.settings.folder),
            **{name: getattr(self, name) for name in counts},
        }

    def close(self) -> None:
        """Write what is to be kept, and let the folder go. Idempotent."""
        with self._lock:
            self._closed, writer = True, self._writer
        if writer is not None:
            atexit.unregister(self.close)
            self._work.put(None)
            writer.join(_CLOSE_SECONDS)
        with self._lock:
            self._broken = True
            if self._store is not None:
                self._store.close()
                self._store = None

    def _is_old(self, created: float, now: float) -> bool:
        return self.settings.ttl is not None and now - created > self.settings.ttl

    def _read(self, key: bytes) -> tuple[bytes, float, float] | None:
        if self._broken:
            return None
        try:
            if self._store is None:
                self._store = CacheStore(self.settings.folder)
            return self._store.get(key)
        except (sqlite3.Error, OSError) as error:
            self._note(error)
            return None

    def _do(self, key: bytes, model: str, value: Callable[[], bytes | None] | None) -> None:
        with self._lock:
            if self._closed or self._broken:
                return
            if self._writer is None:
                self._writer = threading.Thread(
                    target=self._write, name="sage-result-cache", daemon=True
                )
                self._writer.start()
                atexit.register(self.close)
        self._work.put((key, model, value))

    def _write(self) -> None:
        store: CacheStore | None = None
        more = True
        while more:
            batch = [self._work.get()]
            while len(batch) < _BATCH and not self._work.empty():
                batch.append(self._work.get())
            more = None not in batch
            try:
                store = store or CacheStore(self.settings.folder)
                self._write_batch(store, [each for each in batch if each is not None])
            except Exception as error:  # noqa: BLE001 - it must not fail what it is to help
                self.count_error(error)
        if store is not None:
            store.close()

    def _write_batch(self, store: CacheStore, batch: list[Any]) -> None:
        used, kept = [], {}
        for key, model, make in batch:
            if make is None:
                used.append(key)
            elif (value := make()) is not None:
                kept[key] = (model, value)
        store.put(kept, used, self.settings.max_bytes)
        with self._lock:
            self.kept += len(kept)

    def _note(self, error: Exception) -> None:
        if not self.errors:
            logger.warning(
                "the result cache in %s has an error, and the run goes on without what it cannot "
                "read or keep: %s",
                self.settings.folder,
                error,
            )
        self.errors += 1
        if isinstance(error, sqlite3.Error | OSError) and not _passes(error):
            self._broken = True


def _passes(error: Exception) -> bool:
    """Whether an error is none of the file: another process writes, or the disk is full."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the others say more of it
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)
