"""Operators on models behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from sage.common.components.endpoint_error import EndpointError
    from sage.libs.rag.generator import OpenAIGenerator

__all__ = [
    "EndpointError",
    "OpenAIGenerator",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "EndpointError": "sage.common.components.endpoint_error",
        "OpenAIGenerator": "sage.libs.rag.generator",
    },
)
