"""ServiceFactory: the picklable recipe of a service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sage.common.service import BaseService
from sage.kernel.graph.call_check import check_call
from sage.kernel.graph.unused_cleanup import refuse_unused_cleanup


@dataclass(frozen=True, kw_only=True)
class ServiceFactory:
    """A service's class and constructor arguments; ``create()`` makes an instance."""

    service_class: type[BaseService]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (
            isinstance(self.service_class, type) and issubclass(self.service_class, BaseService)
        ):
            raise TypeError(
                f"a service must be a subclass of BaseService, not {self.service_class!r}"
            )
        refuse_unused_cleanup(self.service_class, BaseService, ("teardown",))
        check_call(self.service_class, self.args, self.kwargs, "register_service() builds")

    def create(self) -> BaseService:
        """Return a new instance, not yet opened."""
        return self.service_class(*self.args, **self.kwargs)
