"""Embedding models by the name of their method: hash, hf, openai, vllm, and what is plugged in."""

from sage.common.components.sage_embedding.embedding_factory import (
    EmbeddingFactory,
    get_embedding_model,
)
from sage.common.components.sage_embedding.embedding_model import EmbeddingModel

__all__ = ["EmbeddingFactory", "EmbeddingModel", "get_embedding_model"]
