"""The dicts that the service returns, made from what engines and the registry give."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

from sage.common.components.sage_vllm.engine_contract import (
    Completion,
    Embedding,
    Engine,
    Generation,
)
from sage.common.components.sage_vllm.requests.result_types import (
    Choice,
    EmbedError,
    EmbedResult,
    GenerateResult,
)


def generation_result(
    model_id: str, generation: Generation | Exception, *, parse: bool
) -> GenerateResult:
    """Return what VLLMService.generate does for one prompt, or for the error in its place.

    ``parse`` says whether the text is JSON by a schema.
    """
    if isinstance(generation, Exception):
        error = {"type": type(generation).__name__, "message": str(generation)}
        return cast("GenerateResult", {"error": error, "model_id": model_id})
    choices = [_choice(completion, parse=parse) for completion in generation.completions]
    completion_tokens = sum(c.token_count for c in generation.completions)
    result: dict[str, Any] = {
        **choices[0],
        "tokens_used": {
            "prompt": generation.prompt_token_count,
            "completion": completion_tokens,
            "total": generation.prompt_token_count + completion_tokens,
        },
        "latency": generation.latency,
        "model_id": model_id,
        "request_id": generation.request_id,
    }
    if len(choices) > 1:
        result["choices"] = choices
    return cast("GenerateResult", result)


def _choice(completion: Completion, *, parse: bool) -> Choice:
    choice: Choice = {"text": completion.text, "finish_reason": completion.finish_reason}
    if parse:
        choice["parsed"] = _parsed(completion.text)
    if completion.logprobs is not None:
        choice["logprobs"] = [
            {"token": each.token, "logprob": each.logprob, "top": dict(each.top)}
            for each in completion.logprobs
        ]
    return choice


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # cut off by max_tokens or a deadline
        return None


def engine_stats_record(engine: Engine | None) -> dict[str, Any]:
    """Return what an engine says of itself; of none, nothing."""
    if engine is None:
        return {}
    stats = engine.stats()
    return {
        "model_id": engine.info.model_id,
        "engine": asdict(engine.info),
        **asdict(stats),
        "mean_batch_size": stats.mean_batch_size,
        "batch_occupancy": stats.batch_occupancy,
        "tokens_per_second": stats.tokens_per_second,
    }


def embedding_result(
    model_id: str, embeddings: Sequence[Embedding | Exception], latency: float
) -> EmbedResult:
    """Return the dict that VLLMService.embed describes, without ``truncated`` and ``errors``."""
    made = [each for each in embeddings if isinstance(each, Embedding)]
    tokens = sum(embedding.token_count for embedding in made)
    vectors = [list(each.vector) if isinstance(each, Embedding) else None for each in embeddings]
    result = {
        "vectors": vectors,
        "dim": len(made[0].vector) if made else 0,
        "model_id": model_id,
        "tokens_used": {"prompt": tokens, "total": tokens},
        "latency": latency,
    }
    return cast("EmbedResult", result)  # None in the place of a vector is for who asks for errors


def embedding_errors(embeddings: Sequence[Embedding | Exception]) -> list[EmbedError]:
    """Return what is wrong with each text that has no vector, and its index."""
    return [
        {"index": index, "type": type(each).__name__, "message": str(each)}
        for index, each in enumerate(embeddings)
        if isinstance(each, Exception)
    ]
