"""ServiceCapacities: how many calls the services take that a function calls."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from sage.common.core.context import ServiceCaller


class ServiceCapacities:
    """A ServiceCaller that adds up the capacities of the services which are called through it.

    ``on_change`` is told the sum when it changes. A service that does not say how many calls it can
    make use of counts as nothing.
    """

    def __init__(self, services: ServiceCaller) -> None:
        self._services = services
        self._known: dict[str, int] = {}
        self.on_change: Callable[[int], None] = lambda _sum: None

    def call_service(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a service's method and wait for its result."""
        self._note(name)
        return self._services.call_service(name, *args, **kwargs)

    def call_service_async(self, name: str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a service's method."""
        self._note(name)
        return self._services.call_service_async(name, *args, **kwargs)

    def capacity(self, name: str, /) -> int | None:
        """Return how many calls the service can make use of at once, None if it does not say."""
        return self._services.capacity(name)

    def _note(self, name: str) -> None:
        if name in self._known:
            return
        try:
            capacity = self._services.capacity(name)
        except Exception:  # noqa: BLE001 - the call says it
            return
        if capacity is not None:  # else perhaps later
            self._known[name] = capacity
            self.on_change(sum(self._known.values()))
