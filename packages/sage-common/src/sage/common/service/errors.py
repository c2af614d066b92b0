"""Errors of service calls."""

from __future__ import annotations

from typing import Unpack

from sage.common.core.errors import SageError, WayOut, nearest


class ServiceError(SageError):
    """Base of what can go wrong on the way to a service; ``service`` names it."""

    def __init__(self, service: str, problem: str, **way_out: Unpack[WayOut]) -> None:
        super().__init__(problem, **way_out)
        self.service = service


class ServiceNotFoundError(ServiceError, LookupError):
    """No service of that name is registered."""

    skippable = False

    def __init__(self, service: str, registered: list[str]) -> None:
        problem = f"no service {service!r} is registered"
        register = "register it before submit(), by register_vllm_service() or register_service()"
        hint = nearest(service, registered) if registered else register
        super().__init__(service, problem, hint=hint)
        self.registered = registered


class ServiceMethodNotFoundError(ServiceError, AttributeError):
    """The service has no such public method."""

    skippable = False

    def __init__(self, service: str, method: str, methods: list[str]) -> None:
        problem = f"service {service!r} has no method {method!r}"
        super().__init__(service, problem, hint=nearest(method, methods))
        self.method = method
        self.methods = methods


class ServiceTimeoutError(ServiceError, TimeoutError):
    """A call had no result within its timeout; it was cancelled."""

    def __init__(self, service: str, method: str, timeout: float) -> None:
        super().__init__(
            service,
            f"{service}.{method} had no result within {timeout:g} s and was cancelled",
            hint="pass a larger timeout=, or None to wait without limit",
        )
        self.method = method
        self.timeout = timeout


class ServiceClosedError(ServiceError, RuntimeError):
    """The service is not running: closed, or not started yet."""

    skippable = False

    def __init__(
        self, service: str, why: str = "it has been closed", **way_out: Unpack[WayOut]
    ) -> None:
        super().__init__(service, f"service {service!r} takes no calls: {why}", **way_out)
        self.why = why
