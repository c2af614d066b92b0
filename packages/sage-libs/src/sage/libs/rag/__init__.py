"""Operators on models behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from sage.common.components.endpoint_error import EndpointBusyError, EndpointError
    from sage.libs.rag.generator import OpenAIGenerator

__all__ = [
    "EndpointBusyError",
    "EndpointError",
    "OpenAIGenerator",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "EndpointBusyError": "sage.common.components.endpoint_error",
        "EndpointError": "sage.common.components.endpoint_error",
        "OpenAIGenerator": "sage.libs.rag.generator",
    },
)
