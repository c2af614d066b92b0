"""Models of services for evaluations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from sage.libs.evaluation.service_lm import ServiceLM

__all__ = ["ServiceLM"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ServiceLM": "sage.libs.evaluation.service_lm",
    },
)
