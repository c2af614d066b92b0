"""ServiceManager: the services of an environment, and the calls to them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from functools import partial
from typing import Any

from sage.common.core.context import RuntimeContext
from sage.common.core.futures import errors_in_future
from sage.common.service import (
    BaseService,
    ServiceClosedError,
    ServiceNotFoundError,
    ServiceTimeoutError,
)
from sage.kernel.runtime.annotate import annotate
from sage.kernel.runtime.service.call_timeouts import CallTimeouts
from sage.kernel.runtime.service.running_service import RunningService
from sage.kernel.runtime.service.service_call_proxy import ServiceCallProxy
from sage.kernel.runtime.service.service_factory import ServiceFactory

logger = logging.getLogger(__name__)


class ServiceManager:
    """Opens services in order of registration, closes them in reverse, and routes calls.

    A call without a timeout to a plain method runs on the caller's own thread, so it costs no
    more than the lookup; calls with a timeout and asynchronous ones use the service's Futures or,
    where it has none, threads bounded by its ``max_concurrency``.
    """

    def __init__(self) -> None:
        self._factories: dict[str, ServiceFactory] = {}
        self._made: dict[str, BaseService] = {}  # and not opened yet
        self._running: dict[str, RunningService] = {}
        self._lock = threading.RLock()
        self._closing = threading.RLock()
        self._timeouts = CallTimeouts()
        self._started = False
        self._closed = threading.Event()
        self._why_closed: tuple[str, str | None] = ("it has been closed", None)

    def register(self, name: str, factory: ServiceFactory) -> ServiceFactory:
        """Add a service; its name must be new and the manager not started yet."""
        with self._lock:
            self._check_new(name, too_late=self._started)
            self._factories[name] = factory
        return factory

    def register_open(self, name: str, service: BaseService) -> None:
        """Add a service that is open already, which this manager calls and does not close.

        It takes calls at once. Its name must be new, the manager may be started.
        """
        if not service.accepts_calls:
            raise RuntimeError(
                f"service {name!r} is not open; open it first (`with service:`), or register its "
                f"class and arguments, which the environment opens and closes"
            )
        with self._lock:
            self._check_new(name)
            self._running[name] = RunningService(name, service, borrowed=True)

    def start(self) -> None:
        """Open all services; if one fails, close those before it and raise its error.

        It waits for another thread that is opening them. Where ``close`` is called meanwhile, the
        service that is opening is the last, and all are closed when this returns.
        """
        if self._closed.is_set():
            raise RuntimeError("the services have been closed; make a new environment")
        with self._lock:
            if self._started or self._closed.is_set():
                return
            self._started = True
            try:
                for name, factory in self._factories.items():
                    self._running[name] = self._open(name, factory)
                    if self._closed.is_set():
                        self.close()  # again: close() came before this service was open
                        return
            except BaseException:
                self.close("it has been closed, since a service failed to open")
                raise

    def identities(self) -> dict[str, Mapping[str, Any]]:
        """Return each service's checkpoint identity, by name; services that have none are left out.

        Services that are not open yet are constructed for this, and opened later.
        """
        with self._lock:
            for name, factory in self._factories.items():
                if name not in self._running and name not in self._made:
                    self._made[name] = self._make(name, factory)
            services = {name: running.service for name, running in self._running.items()}
            said = {
                name: service.checkpoint_identity()
                for name, service in {**self._made, **services}.items()
            }
        return {name: identity for name, identity in said.items() if identity is not None}

    def call_service(
        self,
        name: str,
        /,
        *args: Any,
        method: str | None = "process",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a method and return its result; its own exception arrives as it was raised.

        ``timeout`` is in seconds, None waits without limit; ``method=None`` is ``process``.
        Raises ServiceNotFoundError, ServiceMethodNotFoundError, ServiceClosedError, or
        ServiceTimeoutError after cancelling the call. A plain method that has begun cannot be
        interrupted: it keeps its slot until it ends. A method with an ``_async`` twin can be.
        """
        running = self._service(name)
        endpoint = running.endpoint(method)
        try:
            if timeout is None and not endpoint.futures_only:
                return endpoint.call(*args, **kwargs)
            future = endpoint.submit(*args, **kwargs)
            return self._result(future, name, method, timeout)
        except Exception as error:
            if args and method in ("process", None):
                running.note_method(error, args[0])
            raise

    def _result(
        self, future: Future[Any], name: str, method: str | None, timeout: float | None
    ) -> Any:
        try:
            return future.result(timeout)
        except CancelledError:
            if not future.cancelled():
                raise  # the service's own
            raise ServiceClosedError(name, "it was closed before the call could run") from None
        except TimeoutError:
            if timeout is None or future.done():
                return future.result()  # the service's own TimeoutError, or just in time after all
            future.cancel()
            raise ServiceTimeoutError(name, method or "process", timeout) from None
        except BaseException:
            future.cancel()  # a Ctrl-C of the caller must not leave the call running
            raise

    @errors_in_future
    def call_service_async(
        self,
        name: str,
        /,
        *args: Any,
        method: str | None = "process",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Future[Any]:
        """Call a method and return a Future of its result; cancelling it cancels the call.

        After ``timeout`` seconds the call is cancelled, and the Future raises ServiceTimeoutError,
        as it raises everything that ``call_service`` does.
        """
        running = self._service(name)
        future = running.endpoint(method).submit(*args, **kwargs)
        if method in ("process", None) and args and isinstance(args[0], str):
            future.add_done_callback(partial(_note_method, running, args[0]))
        if timeout is None:
            return future
        late = ServiceTimeoutError(name, method or "process", timeout)
        return self._timeouts.limit(future, timeout, late)

    def capacity(self, name: str) -> int | None:
        """Return how many calls in flight keep the service busy; None if it does not say."""
        return self._service(name).service.capacity

    def proxy(self, name: str) -> ServiceCallProxy:
        """Return an object whose methods are the service's; raises ServiceNotFoundError."""
        if name not in self.names:
            raise ServiceNotFoundError(name, self.names)
        return ServiceCallProxy(self, name)

    def close(self, why: str = "it has been closed", *, hint: str | None = None) -> None:
        """Close all services, the last registered first; calls in flight end with an error.

        ``why`` and ``hint`` are what later calls are told. Borrowed services stay open.
        """
        if not self.closed:
            self._why_closed = (why, hint)
        self._closed.set()  # at once, for start() to see
        with self._lock:
            pass  # until the service that is opening is open
        # Not under the same lock: what a service waits for as it stops may be making a call.
        with self._closing, ExitStack() as stack:
            stack.callback(self._timeouts.close)  # last
            for name, running in self._running.items():
                stack.callback(running.close, self._closed_error(name))

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed.is_set()

    def is_open(self, name: str) -> bool:
        """Whether the service takes calls, also while those after it are still opening."""
        return name in self._running

    def _open(self, name: str, factory: ServiceFactory) -> RunningService:
        service = self._made.pop(name, None) or self._make(name, factory)
        try:
            running = RunningService(name, service)
            service.open()
        except BaseException as error:
            annotate(error, f"while starting service {name!r}")
            raise
        logger.debug("service %r is up", name)
        return running

    def _make(self, name: str, factory: ServiceFactory) -> BaseService:
        try:
            service = factory.create()
        except BaseException as error:
            annotate(error, f"while starting service {name!r}")
            raise
        service.ctx = RuntimeContext(name=name, services=self)
        return service

    def _service(self, name: str) -> RunningService:
        running = self._running.get(name)
        if running is not None:
            return running
        if name not in self.names:
            raise ServiceNotFoundError(name, self.names)
        if self.closed:
            raise self._closed_error(name)
        raise ServiceClosedError(name, "it has not been started yet")

    def _closed_error(self, name: str) -> ServiceClosedError:
        why, hint = self._why_closed
        return ServiceClosedError(name, why, hint=hint)

    @property
    def names(self) -> list[str]:
        """The names of all services, open or not."""
        return list({**self._factories, **self._running})

    def _check_new(self, name: str, *, too_late: bool = False) -> None:
        if too_late or self.closed:
            state = "closed" if self.closed else "started"
            raise RuntimeError(f"cannot register service {name!r}: the services are {state}")
        if name in self.names:
            raise ValueError(f"a service named {name!r} is already registered; choose another name")


def _note_method(running: RunningService, first: str, done: Future[Any]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        running.note_method(error, first)
