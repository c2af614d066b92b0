"""ResultCaches: the folders in which a service's calls keep their answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from sage.common.components.sage_vllm.cache.cache_settings import CacheSettings
from sage.common.components.sage_vllm.cache.result_cache import ResultCache


class ResultCaches:
    """Opens each cache once, for all calls that name it.

    Args:
        default: the cache of calls that name none; None keeps nothing.
    """

    def __init__(self, default: object) -> None:
        self._default = None if default is None else CacheSettings.of(default)
        self._lock = threading.Lock()
        self._open: dict[CacheSettings, ResultCache] = {}

    def of(self, options: Mapping[str, Any]) -> ResultCache | None:
        """Return the cache that a call's options name; raises InvalidOptionError."""
        settings = self._default
        if "cache" in options:
            given = options["cache"]
            settings = None if given is None else CacheSettings.of(given)
        if settings is None:
            return None
        with self._lock:
            if settings not in self._open:
                self._open[settings] = ResultCache(settings)
            return self._open[settings]

    def records(self) -> list[dict[str, Any]]:
        """Return the counts of each cache that calls have used."""
        with self._lock:
            return [cache.record() for cache in self._open.values()]

    def close(self) -> None:
        """Write what is to be kept, and let the folders go; a later call opens them again."""
        with self._lock:
            caches, self._open = list(self._open.values()), {}
        for cache in caches:
            cache.close()
