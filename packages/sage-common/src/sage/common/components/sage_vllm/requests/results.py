"""The dicts that the service returns, made from what engines and the registry give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, cast

from sage.common.components.sage_vllm.engine_contract import (
    Completion,
    Embedding,
    Engine,
    Generation,
)
from sage.common.components.sage_vllm.errors import InvalidAnswerError
from sage.common.components.sage_vllm.requests.chat.typed_schema import parsed
from sage.common.components.sage_vllm.requests.result_types import (
    Choice,
    EmbedError,
    EmbedResult,
    GenerateResult,
    TokenResult,
)
from sage.common.components.sage_vllm.requests.sampling_options import makes_json
from sage.common.components.sage_vllm.tokens import TokenLogprob


def generation_result(
    model_id: str,
    generation: Generation | Exception,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> GenerateResult:
    """Return what VLLMService.generate does for one prompt, or for the error in its place.

    ``options`` are those of the prompt. Raises InvalidAnswerError for a text that the class of its
    ``json_schema`` refuses.
    """
    if isinstance(generation, Exception):
        return cast("GenerateResult", error_result(model_id, generation))
    tokens_used = _tokens_used(generation)
    try:
        choices = [_choice(completion, options) for completion in generation.completions]
    except InvalidAnswerError as error:
        error.tokens_used = tokens_used
        raise
    result: dict[str, Any] = {
        **choices[0],
        "tokens_used": tokens_used,
        "latency": generation.latency,
        "model_id": model_id,
        "request_id": generation.request_id,
    }
    if generation.cached:
        result["cached"] = True
    if generation.prompt_logprobs is not None:
        result["prompt_logprobs"] = [
            each and token_result(each) for each in generation.prompt_logprobs
        ]
    if len(choices) > 1:
        result["choices"] = choices
    return cast("GenerateResult", result)


def error_result(model_id: str, error: Exception) -> dict[str, Any]:
    """Return what stands in the place of a result under ``on_error="return"``."""
    return {
        "error": {"type": type(error).__name__, "message": str(error)},
        "model_id": model_id,
    }


def token_result(each: TokenLogprob, *, by_id: bool = False) -> TokenResult:
    """Return how likely a token is, as a dict; with ``by_id`` those of ids too."""
    found: TokenResult = {
        "token": each.token,
        "token_id": each.token_id,
        "logprob": each.logprob,
        "top": dict(each.top),
    }
    if by_id:
        found["by_id"] = dict(each.by_id)
    return found


def _tokens_used(generation: Generation) -> dict[str, int]:
    completion_tokens = sum(c.token_count for c in generation.completions)
    used = {
        "prompt": generation.prompt_token_count,
        "completion": completion_tokens,
        "total": generation.prompt_token_count + completion_tokens,
    }
    if generation.completions[0].reasoning_token_count is not None:
        used["reasoning"] = sum(c.reasoning_token_count or 0 for c in generation.completions)
    return used


def _choice(completion: Completion, options: Mapping[str, Any]) -> Choice:
    choice: Choice = {"text": completion.text, "finish_reason": completion.finish_reason}
    if completion.reasoning_token_count is not None:
        choice["reasoning"] = completion.reasoning
    if (calls := completion.tool_calls) is not None:
        choice["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments} for call in calls
        ]
    if makes_json(options):
        schema = options.get("json_schema") or {}
        choice["parsed"] = None if completion.tool_calls else parsed(completion.text, schema)
    if completion.logprobs is not None:
        by_id = options.get("logprob_token_ids") is not None
        choice["logprobs"] = [token_result(each, by_id=by_id) for each in completion.logprobs]
    return choice


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
