"""What the kernel hands to every function and service that it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from types import MethodWrapperType
from typing import Any, Protocol


class ServiceCaller(Protocol):
    """The way to services; the kernel's ServiceManager is one."""

    def call_service(
        self,
        name: str,
        /,
        *args: Any,
        method: str | None = "process",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a service's method and wait for its result."""
        ...

    def call_service_async(
        self,
        name: str,
        /,
        *args: Any,
        method: str | None = "process",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Future[Any]:
        """Call a service's method; cancelling the Future cancels the call."""
        ...

    def capacity(self, name: str, /) -> int | None:
        """Return how many calls the service can make use of at once, None if it does not say."""
        ...


class NoServices:
    """The caller of a function that no environment runs: every call says so."""

    def call_service(self, name: str, /, *_args: Any, **_kwargs: Any) -> Any:
        """Raise: there are no services here."""
        raise RuntimeError(
            f"cannot call service {name!r}: this object was made by hand, not by an environment; "
            "register the service with an environment and add the function to one of its streams"
        )

    call_service_async = call_service
    capacity = call_service


@dataclass(frozen=True, kw_only=True)
class RuntimeContext:
    """Name, services and logger of one running function or service."""

    name: str
    services: ServiceCaller = field(default_factory=NoServices)
    call_origin: Callable[..., Future[Any]] | None = None
    """Of a service that is a copy in another process: calls a method of its ``Replication.origin``,
    by the method's name and arguments."""

    @property
    def logger(self) -> logging.Logger:
        """The logger named ``sage.<name>``."""
        return logging.getLogger(f"sage.{self.name}")

    def call_service(
        self,
        name: str,
        /,
        *args: Any,
        method: str | None = "process",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call ``method`` of the service ``name`` and return its result.

        ``timeout`` is in seconds; None waits without limit. ``method=None`` is ``"process"``. A
        service's own exception arrives as it was raised. Raises ServiceNotFoundError,
        ServiceMethodNotFoundError, ServiceTimeoutError (the call is cancelled first) or
        ServiceClosedError.
        """
        return self.services.call_service(name, *args, method=method, timeout=timeout, **kwargs)

    def call_service_async(
        self,
        name: str,
        /,
        *args: Any,
        method: str | None = "process",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Future[Any]:
        """Call ``method`` of the service ``name`` and return a Future of its result.

        Cancelling the Future cancels the call. After ``timeout`` seconds the call is cancelled and
        the Future raises ServiceTimeoutError, as it raises everything that ``call_service`` does.
        """
        return self.services.call_service_async(
            name, *args, method=method, timeout=timeout, **kwargs
        )

    async def acall_service(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a service from a coroutine, as ``call_service`` does, without blocking its loop.

        Cancelling the await cancels the call.
        """
        from sage.common.core import awaiting

        call = awaiting.started_in_thread(self.services.call_service_async, name, *args, **kwargs)
        return await _result_of_call(name, call)

    async def await_service(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a service from a coroutine of a pipeline, as ``call_service`` does.

        The call starts on the loop's own thread, which most services take microseconds for;
        ``acall_service`` is for loops that other people's requests wait for. Cancelling the await
        cancels the call.
        """
        call = self.services.call_service_async(name, *args, **kwargs)
        return await _result_of_call(name, call)


async def _result_of_call(name: str, call: Future[Any]) -> Any:
    from sage.common.core import awaiting
    from sage.common.service.errors import ServiceClosedError

    try:
        return await awaiting.result_of(call)
    except CancelledError:  # the call was, not the task that awaits it
        why = "it was closed before the call was done"
        raise ServiceClosedError(name, why) from None


class _OwnName:
    """The name of the operator or service, for objects that set no ``name`` themselves."""

    def __get__(self, instance: ContextBound | None, owner: type[ContextBound]) -> str:
        return (owner if instance is None else instance).ctx.name


class ContextBound:
    """Base of functions and services: reaches the kernel through ``ctx``.

    The context is a class attribute until the kernel binds one, so subclasses that do not call
    ``super().__init__()`` work all the same.
    """

    ctx: RuntimeContext = RuntimeContext(name="unbound")
    name: Any = _OwnName()
    """The name of the operator or service, unless a subclass has a ``name`` of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Accept what a subclass hands on; nothing is kept of it.

        A class that has no constructor accepts no arguments, so that one misspelt is an error.
        """
        follows = super().__init__  # a mixin's, or object's
        own = type(self).__init__ is not ContextBound.__init__
        if not isinstance(follows, MethodWrapperType):
            follows(*args, **kwargs)
        elif args or (kwargs and not own):
            raise TypeError(
                f"{type(self).__name__}() accepts no arguments, and got "
                f"{', '.join([*map(repr, args), *kwargs])}"
            )

    @property
    def logger(self) -> logging.Logger:
        """The logger of this object, named after its operator or service."""
        return self.ctx.logger

    def call_service(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a service and return its result; ``RuntimeContext.call_service`` says how."""
        return self.ctx.call_service(name, *args, **kwargs)

    def call_service_async(self, name: str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a service and return a Future, as ``RuntimeContext.call_service_async`` does."""
        return self.ctx.call_service_async(name, *args, **kwargs)

    async def acall_service(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a service from a coroutine, as ``RuntimeContext.acall_service`` does."""
        return await self.ctx.acall_service(name, *args, **kwargs)
