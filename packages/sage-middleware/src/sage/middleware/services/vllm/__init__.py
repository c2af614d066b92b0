"""The vLLM service in an environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from sage.middleware.services.vllm.registry import register_vllm_service

__all__ = [
    "register_vllm_service",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "register_vllm_service": "sage.middleware.services.vllm.registry",
    },
)
