"""Errors of service calls."""

from __future__ import annotations

from sage.common.core.errors import SageError, nearest


class ServiceError(SageError):
    """Base of what can go wrong on the way to a service; ``service`` names it."""

    def __init__(self, service: str, *facts: object) -> None:
        super().__init__(service, *facts)
        self.service = service


class ServiceNotFoundError(ServiceError, LookupError):
    """No service of that name is registered."""

    def __init__(self, service: str, registered: list[str]) -> None:
        super().__init__(service, registered)
        self.registered = registered

    def __str__(self) -> str:
        return (
            f"no service {self.service!r} is registered; {nearest(self.service, self.registered)}"
        )


class ServiceMethodNotFoundError(ServiceError, AttributeError):
    """The service has no such public method."""

    def __init__(self, service: str, method: str, methods: list[str]) -> None:
        super().__init__(service, method, methods)
        self.method = method
        self.methods = methods

    def __str__(self) -> str:
        hint = nearest(self.method, self.methods)
        return f"service {self.service!r} has no method {self.method!r}; {hint}"


class ServiceTimeoutError(ServiceError, TimeoutError):
    """A call had no result within its timeout; it was cancelled."""

    def __init__(self, service: str, method: str, timeout: float) -> None:
        super().__init__(service, method, timeout)
        self.method = method
        self.timeout = timeout

    def __str__(self) -> str:
        return (
            f"{self.service}.{self.method} had no result within {self.timeout:g} s and was "
            f"cancelled; pass a larger timeout=, or None to wait without limit"
        )


class ServiceClosedError(ServiceError, RuntimeError):
    """The service is not running: closed, or not started yet."""

    def __init__(self, service: str, why: str = "it has been closed") -> None:
        super().__init__(service, why)
        self.why = why

    def __str__(self) -> str:
        return f"service {self.service!r} takes no calls: {self.why}"
