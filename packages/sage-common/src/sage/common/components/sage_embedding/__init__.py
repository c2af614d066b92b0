"""Embedding models by the name of their method: hash, hf, openai, vllm, and what is plugged in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from sage.common.components.sage_embedding.embedding_factory import (
        EmbeddingFactory,
        get_embedding_model,
    )
    from sage.common.components.sage_embedding.embedding_model import EmbeddingModel

__all__ = [
    "EmbeddingFactory",
    "EmbeddingModel",
    "get_embedding_model",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "EmbeddingFactory": "sage.common.components.sage_embedding.embedding_factory",
        "EmbeddingModel": "sage.common.components.sage_embedding.embedding_model",
        "get_embedding_model": "sage.common.components.sage_embedding.embedding_factory",
    },
)
