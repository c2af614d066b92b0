"""RunningService: an open service and the admission of calls to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from inspect import iscoroutinefunction, isroutine
from typing import Any, NoReturn

from sage.common.core.context import ContextBound
from sage.common.core.errors import near_name
from sage.common.service import BaseService, ServiceClosedError, ServiceMethodNotFoundError
from sage.kernel.runtime.annotate import annotate
from sage.kernel.runtime.service.daemon_threads import DaemonThreads

_LIFECYCLE = {"setup", "start", "stop", "cleanup", "open", "close"}
_ABOUT_ITSELF = {"checkpoint_identity", "replication"}
_NOT_TO_BE_CALLED = (
    _LIFECYCLE | _ABOUT_ITSELF | {name for name in dir(ContextBound) if name != "name"}
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one running service.

    ``call`` runs it on the caller's thread once there is a slot, ``submit`` returns a Future.
    With ``futures_only`` the service has an ``_async`` twin of the method, and only that is used.
    """

    call: Callable[..., Any]
    submit: Callable[..., Future[Any]]
    futures_only: bool


class RunningService:
    """An open service with its slots and, once needed, its threads.

    A ``borrowed`` service was opened by somebody else, who also closes it. Its slots belong to the
    service: however many managers borrow it, it runs ``max_concurrency`` calls at once. Closing the
    manager does not close the service, so calls in flight are remembered and cancelled.
    """

    def __init__(self, name: str, service: BaseService, *, borrowed: bool = False) -> None:
        self.name = name
        self.service = service
        self._borrowed = borrowed
        self._in_flight: set[Future[Any]] = set()  # of a borrowed one
        limit = service.max_concurrency
        if limit is not None and limit < 1:
            raise ValueError(
                f"service {name!r} has max_concurrency={limit}; it must be at least 1, or None for "
                f"a thread-safe service"
            )
        # A service of one call at a time may call itself: a re-entrant lock does not deadlock.
        slots: AbstractContextManager[Any] = (
            nullcontext()
            if limit is None
            else threading.RLock()
            if limit == 1
            else threading.BoundedSemaphore(limit)
        )
        self._slots: AbstractContextManager[Any] = vars(service).setdefault("_call_slots", slots)
        self._threads = DaemonThreads(name, limit, self._slots)
        self._endpoints: dict[str | None, Endpoint] = {}
        self._closed: ServiceClosedError | None = None

    def endpoint(self, method: str | None) -> Endpoint:
        """Return the way to a method, ``process`` if None.

        Raises ServiceMethodNotFoundError, ServiceClosedError.
        """
        endpoint = self._endpoints.get(method)
        if endpoint is None:
            endpoint = self._endpoints[method] = self._resolve(method or "process")
        if self._closed:
            raise copy(self._closed)
        if self._borrowed and not self.service.accepts_calls:
            raise ServiceClosedError(self.name, "it has been closed by whoever opened it")
        return endpoint

    def close(self, closed: ServiceClosedError | None = None) -> None:
        """Refuse further calls and calls that wait for a slot or a thread, then close the service.

        ``closed`` is what further calls raise. A borrowed service stays open.
        """
        self._closed = closed or ServiceClosedError(self.name)
        self._threads.close()
        if not self._borrowed:
            self.service.close()
        for future in list(self._in_flight):
            future.cancel()

    def _resolve(self, method: str) -> Endpoint:
        function = getattr(self.service, method, None) if is_callable_name(method) else None
        if not callable(function):
            raise ServiceMethodNotFoundError(self.name, method, list(self.methods))
        twin: Any = getattr(self.service, f"{method}_async", None)
        if twin is None and iscoroutinefunction(function):
            raise TypeError(
                f"{method}() of service {self.name!r} is `async def`: the call would return a "
                f"coroutine that nobody awaits. Call a plain method, in a coroutine by `await "
                f"acall_service(...)`, or give it a twin {method}_async() that returns a Future"
            )

        if getattr(function, "__func__", None) is BaseService.process:
            function = self._refuse_without_method

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._slots:
                if self._closed:
                    raise ServiceClosedError(self.name, "it was closed before the call could run")
                return function(*args, **kwargs)

        def submit(*args: Any, **kwargs: Any) -> Future[Any]:
            return self._threads.submit(function, *args, **kwargs)

        def submit_to_twin(*args: Any, **kwargs: Any) -> Future[Any]:
            future = twin(*args, **kwargs)
            if not isinstance(future, Future):
                raise TypeError(
                    f"{method}_async() of service {self.name!r} must return a "
                    f"concurrent.futures.Future, not {future!r}"
                )
            return future

        def submit_and_keep(*args: Any, **kwargs: Any) -> Future[Any]:
            future = start(*args, **kwargs)
            self._in_flight.add(future)
            future.add_done_callback(self._in_flight.discard)
            if self._closed:  # meanwhile, and close() may have looked before this
                future.cancel()
            return future

        start = submit_to_twin if callable(twin) else submit
        kept = submit_and_keep if self._borrowed else start
        return Endpoint(call, kept, futures_only=callable(twin))

    def _refuse_without_method(self, *_: Any, **kwargs: Any) -> NoReturn:
        methods = sorted({*self.methods} - {"process"})
        problem = f"{type(self.service).__name__} defines no process(); name a method="
        has = f"service {self.name!r} has: {', '.join(methods) or 'no methods to call'}"
        if misspelt := near_name("method", kwargs):
            has = f"did you mean method= by {misspelt}={kwargs[misspelt]!r}? {has}"
        raise NotImplementedError(f"{problem}; {has}")

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """What can be called by name; not a connection that is kept, though one can be called."""
        of_class = type(self.service)
        values = {name: getattr(of_class, name, None) for name in dir(of_class)}
        values |= vars(self.service)
        return tuple(
            name for name, value in values.items() if is_callable_name(name) and _is_method(value)
        )

    def note_method(self, error: BaseException, first: object) -> None:
        """Say with the error of a call without ``method=`` that its first argument is a method."""
        if isinstance(first, str) and first in self.methods:
            annotate(
                error,
                f"{first!r} is a method of service {self.name!r}, and was passed as an argument "
                f"of process(); name it by method={first!r}",
            )


def is_callable_name(method: str) -> bool:
    """Whether callers may call a service's method of this name."""
    return not (method.startswith("_") or method in _NOT_TO_BE_CALLED)


def _is_method(value: object) -> bool:
    is_plain = isroutine(value) or isinstance(value, partial)
    return is_plain and not iscoroutinefunction(value)
