"""Operators on language models: texts and vectors from a service, one record at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from sage.libs.operators.errors import (
        NoAnswerError,
        ToolCallError,
        ToolTimeoutError,
        UnfinishedAnswerError,
    )
    from sage.libs.operators.scoring import VLLMClassifyOperator, VLLMScoreOperator
    from sage.libs.operators.vllm_service import (
        VLLMEmbeddingOperator,
        VLLMServiceEmbedder,
        VLLMServiceGenerator,
    )

__all__ = [
    "NoAnswerError",
    "ToolCallError",
    "ToolTimeoutError",
    "UnfinishedAnswerError",
    "VLLMClassifyOperator",
    "VLLMEmbeddingOperator",
    "VLLMScoreOperator",
    "VLLMServiceEmbedder",
    "VLLMServiceGenerator",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "NoAnswerError": "sage.libs.operators.errors",
        "ToolCallError": "sage.libs.operators.errors",
        "ToolTimeoutError": "sage.libs.operators.errors",
        "UnfinishedAnswerError": "sage.libs.operators.errors",
        "VLLMClassifyOperator": "sage.libs.operators.scoring",
        "VLLMEmbeddingOperator": "sage.libs.operators.vllm_service",
        "VLLMScoreOperator": "sage.libs.operators.scoring",
        "VLLMServiceEmbedder": "sage.libs.operators.vllm_service",
        "VLLMServiceGenerator": "sage.libs.operators.vllm_service",
    },
)
