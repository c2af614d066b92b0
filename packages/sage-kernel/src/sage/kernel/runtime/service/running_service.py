"""RunningService: an open service and the admission of calls to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sage.common.service import BaseService, ServiceClosedError, ServiceMethodNotFoundError

_LIFECYCLE = frozenset({"setup", "start", "stop", "cleanup", "open", "close"})
_UNBOUNDED_THREADS = 32


class Endpoint:
    """One method of one running service."""

    def __init__(
        self,
        function: Callable[..., Any],
        submit: Callable[..., Future[Any]],
        slots: AbstractContextManager[Any],
        *,
        futures_only: bool,
    ) -> None:
        self.function = function
        self.submit = submit
        self.slots = slots
        self.futures_only = futures_only  # the service has an _async twin for it


class RunningService:
    """A service that the manager opened, with its slots and, once needed, its threads."""

    def __init__(self, name: str, service: BaseService) -> None:
        self.name = name
        self.service = service
        limit = service.max_concurrency
        if limit is not None and limit < 1:
            raise ValueError(
                f"service {name!r} has max_concurrency={limit}; it must be at least 1, or None for "
                f"a thread-safe service"
            )
        # A service of one call at a time may call itself: a re-entrant lock does not deadlock.
        self._slots: AbstractContextManager[Any] = (
            nullcontext()
            if limit is None
            else threading.RLock()
            if limit == 1
            else threading.BoundedSemaphore(limit)
        )
        self._threads: ThreadPoolExecutor | None = None
        self._thread_count = limit or _UNBOUNDED_THREADS
        self._lock = threading.Lock()
        self._endpoints: dict[str, Endpoint] = {}
        self._closed = False

    def endpoint(self, method: str) -> Endpoint:
        """Return the way to a method; raises ServiceMethodNotFoundError, ServiceClosedError."""
        endpoint = self._endpoints.get(method)
        if endpoint is None:
            endpoint = self._endpoints[method] = self._resolve(method)
        return endpoint

    def close(self) -> None:
        """Refuse further calls, drop those that wait for a thread, close the service."""
        with self._lock:
            self._closed = True
            self._endpoints = {}
            threads = self._threads
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
        self.service.close()

    def _resolve(self, method: str) -> Endpoint:
        if self._closed:
            raise ServiceClosedError(self.name)
        function = (
            None if not self._is_callable_name(method) else getattr(self.service, method, None)
        )
        if not callable(function):
            raise ServiceMethodNotFoundError(self.name, method, self._methods())
        twin = getattr(self.service, f"{method}_async", None)
        if callable(twin):
            return Endpoint(function, twin, self._slots, futures_only=True)

        def run(*args: Any, **kwargs: Any) -> Any:
            with self._slots:
                return function(*args, **kwargs)

        def submit(*args: Any, **kwargs: Any) -> Future[Any]:
            return self._pool().submit(run, *args, **kwargs)

        return Endpoint(function, submit, self._slots, futures_only=False)

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._closed:
                raise ServiceClosedError(self.name)
            if self._threads is None:
                self._threads = ThreadPoolExecutor(
                    self._thread_count, thread_name_prefix=f"sage-service-{self.name}"
                )
            return self._threads

    @staticmethod
    def _is_callable_name(method: str) -> bool:
        return not method.startswith("_") and method not in _LIFECYCLE

    def _methods(self) -> list[str]:
        cls = type(self.service)
        return [
            name
            for name in dir(cls)
            if self._is_callable_name(name)
            and callable(getattr(cls, name))
            and not hasattr(BaseService.__mro__[1], name)
        ]
