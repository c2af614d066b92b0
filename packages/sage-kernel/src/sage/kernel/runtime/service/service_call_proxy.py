"""ServiceCallProxy: one service, its methods as attributes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from sage.common.core.context import ServiceCaller


class ServiceCallProxy:
    """Calls one service: ``proxy.generate("Hi")`` calls its method ``generate`` with "Hi"."""

    def __init__(self, services: ServiceCaller, name: str) -> None:
        self._services = services
        self._name = name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)
        services, name = self._services, self._name

        def call(*args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
            return services.call_service(name, *args, method=method, timeout=timeout, **kwargs)

        return call

    def call_async(self, *args: Any, method: str | None = "process", **kwargs: Any) -> Future[Any]:
        """Call a method and return a Future of its result; cancelling it cancels the call.

        After ``timeout=`` seconds the call is cancelled, and the Future raises ServiceTimeoutError.
        """
        return self._services.call_service_async(self._name, *args, method=method, **kwargs)

    def __repr__(self) -> str:
        return f"ServiceCallProxy({self._name!r})"
