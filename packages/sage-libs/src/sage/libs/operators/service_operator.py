"""ServiceOperator: what operators that call a service for each record have in common."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sage.common.core.functions import AsyncMapFunction
from sage.common.service import ServiceMethodNotFoundError

_UNKNOWN_CAPACITY = 64  # records in flight where the service does not say what it can use


class ServiceOperator(AsyncMapFunction):
    """Has a service work on each record, as many at once as the service can make use of."""

    free_arguments = frozenset({"timeout", "max_in_flight", "retries"})
    task: str
    """What of the service is called."""
    options: dict[str, Any]
    """The options of each call, unless its record has others."""

    def __init__(
        self,
        service_name: str,
        *,
        timeout: float | None,
        ordered: bool,
        max_in_flight: int | None,
        retries: int,
    ) -> None:
        self.service_name = service_name
        self.timeout = timeout
        self.ordered = ordered
        self.max_in_flight = max_in_flight
        self.retries = retries

    def setup(self) -> None:
        """Have the service look at the options: a mistake in them is no record's."""
        with suppress(ServiceMethodNotFoundError):  # a service of another class, such as a stub
            self.call_service(self.service_name, self.task, method="check_options", **self.options)

    def default_max_in_flight(self) -> int:
        """Return what the service can make use of, so that it is never short of work."""
        return self.ctx.services.capacity(self.service_name) or _UNKNOWN_CAPACITY


def given(**options: Any) -> dict[str, Any]:
    """Return the options of a call that are not None: the service has defaults for the others."""
    return {name: value for name, value in options.items() if value is not None}
