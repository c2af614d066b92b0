"""Services at run time."""

from __future__ import annotations

from sage.kernel.runtime.service.service_call_proxy import ServiceCallProxy
from sage.kernel.runtime.service.service_factory import ServiceFactory
from sage.kernel.runtime.service.service_manager import ServiceManager

__all__ = ["ServiceCallProxy", "ServiceFactory", "ServiceManager"]
