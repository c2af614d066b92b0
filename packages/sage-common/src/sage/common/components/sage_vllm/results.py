"""The dicts that the service returns, made from what engines and the registry give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage.common.components.sage_vllm.engine import Embedding, Generation
from sage.common.model_registry.vllm_registry import ModelInfo


def generation_results(
    model_id: str, generations: Sequence[Generation | Exception]
) -> list[dict[str, Any]]:
    """Return a dict per prompt, as VLLMService.generate describes it."""
    return [_to_result(model_id, generation) for generation in generations]


def _to_result(model_id: str, generation: Generation | Exception) -> dict[str, Any]:
    if isinstance(generation, Exception):
        error = {"type": type(generation).__name__, "message": str(generation)}
        return {"error": error, "model_id": model_id}
    first = generation.completions[0]
    completion_tokens = sum(c.token_count for c in generation.completions)
    result = {
        "text": first.text,
        "finish_reason": first.finish_reason,
        "tokens_used": {
            "prompt": generation.prompt_token_count,
            "completion": completion_tokens,
            "total": generation.prompt_token_count + completion_tokens,
        },
        "latency": generation.latency,
        "model_id": model_id,
        "request_id": generation.request_id,
    }
    if len(generation.completions) > 1:
        result["choices"] = [
            {"text": c.text, "finish_reason": c.finish_reason} for c in generation.completions
        ]
    return result


def model_record(model: ModelInfo) -> dict[str, Any]:
    """Return a registry record with the absolute path of its folder."""
    return {**model.to_json(), "path": str(model.path)}


def embedding_result(
    model_id: str, embeddings: Sequence[Embedding], latency: float
) -> dict[str, Any]:
    """Return the dict that VLLMService.embed describes."""
    tokens = sum(embedding.token_count for embedding in embeddings)
    vectors = [list(embedding.vector) for embedding in embeddings]
    return {
        "vectors": vectors,
        "dim": len(vectors[0]) if vectors else 0,
        "model_id": model_id,
        "tokens_used": {"prompt": tokens, "total": tokens},
        "latency": latency,
    }
