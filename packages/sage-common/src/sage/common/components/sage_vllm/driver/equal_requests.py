"""EqualRequests: finds the request in flight whose answer another one is waiting for too."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.driver.engine_request import EngineRequest


class EqualRequests:
    """The requests of an engine whose answer is determined, by what it follows from.

    Of two that start at the very same time, each may be worked on: that costs time alone.
    """

    def __init__(self) -> None:
        self._requests: dict[Hashable, EngineRequest] = {}
        self._lock = threading.Lock()
        self.joined = 0
        """Requests that were answered by an equal one."""

    def join(self, key: Hashable) -> tuple[EngineRequest, Future[Any]] | None:
        """Return the request in flight with this key and one more Future of it, if there is one."""
        request = self._requests.get(key)
        if request is None or (future := request.join()) is None:
            return None
        with self._lock:
            self.joined += 1
        return request, future

    def add(self, key: Hashable, request: EngineRequest) -> None:
        """Have others find a request until its first caller has the result, or cancels it."""
        self._requests[key] = request
        request.future.add_done_callback(lambda _: self._forget(key, request))

    def _forget(self, key: Hashable, request: EngineRequest) -> None:
        with self._lock:
            if self._requests.get(key) is request:
                del self._requests[key]
