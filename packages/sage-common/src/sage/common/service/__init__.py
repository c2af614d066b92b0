"""Services: objects that live as long as an environment and are called by name."""

from __future__ import annotations

from sage.common.service.base_service import BaseService
from sage.common.service.errors import (
    ServiceClosedError,
    ServiceError,
    ServiceMethodNotFoundError,
    ServiceNotFoundError,
    ServiceTimeoutError,
)

__all__ = [
    "BaseService",
    "ServiceClosedError",
    "ServiceError",
    "ServiceMethodNotFoundError",
    "ServiceNotFoundError",
    "ServiceTimeoutError",
]
