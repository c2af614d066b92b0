"""Services: objects that live as long as an environment and are called by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from sage.common.service.base_service import BaseService
    from sage.common.service.errors import (
        ServiceClosedError,
        ServiceError,
        ServiceMethodNotFoundError,
        ServiceNotFoundError,
        ServiceTimeoutError,
    )
    from sage.common.service.replication import Replication, Streaming

__all__ = [
    "BaseService",
    "Replication",
    "ServiceClosedError",
    "ServiceError",
    "ServiceMethodNotFoundError",
    "ServiceNotFoundError",
    "ServiceTimeoutError",
    "Streaming",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "BaseService": "sage.common.service.base_service",
        "Replication": "sage.common.service.replication",
        "ServiceClosedError": "sage.common.service.errors",
        "ServiceError": "sage.common.service.errors",
        "ServiceMethodNotFoundError": "sage.common.service.errors",
        "ServiceNotFoundError": "sage.common.service.errors",
        "ServiceTimeoutError": "sage.common.service.errors",
        "Streaming": "sage.common.service.replication",
    },
)
