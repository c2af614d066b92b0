"""Generations and embeddings as bytes, for a cache to keep."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sage.common.components.sage_vllm.engine_contract import (
    Completion,
    Embedding,
    Generation,
    ToolCall,
)
from sage.common.components.sage_vllm.tokens import TokenLogprob

_WHOLE = ("stop", "length", "repetition", "tool_calls")


def stored(generation: Generation) -> bytes | None:
    """Return the form in which a generation is kept; None for one that is not whole."""
    if any(each.finish_reason not in _WHOLE for each in generation.completions):
        return None  # its deadline, or its caller, ended it
    completions = [asdict(completion) for completion in generation.completions]
    prompt = generation.prompt_logprobs
    weighed = None if prompt is None else [each and asdict(each) for each in prompt]
    return json.dumps([generation.prompt_token_count, completions, weighed]).encode()


def restored(
    kept: bytes, *, request_id: str, latency: float, prompt_token_ids: Sequence[int]
) -> Generation:
    """Return the generation that was kept, as that of a request with these tokens.

    Raises ValueError, TypeError or KeyError.
    """
    prompt_tokens, completions, weighed = json.loads(kept)
    return Generation(
        request_id=request_id,
        prompt_token_count=prompt_tokens,
        completions=[_completion(each) for each in completions],
        latency=latency,
        cached=True,
        prompt_token_ids=prompt_token_ids,
        prompt_logprobs=None if weighed is None else [each and _weighed(each) for each in weighed],
    )


def stored_embedding(embedding: Embedding) -> bytes:
    """Return the form in which an embedding is kept: a line of JSON, and its float32 numbers."""
    facts = json.dumps([embedding.token_count, embedding.truncated]).encode()
    return facts + b"\n" + array("f", embedding.vector).tobytes()


def restored_embedding(kept: bytes) -> Embedding:
    """Return the embedding that was kept; raises ValueError or TypeError."""
    facts, _, numbers = kept.partition(b"\n")
    token_count, truncated = json.loads(facts)
    vector = array("f")
    vector.frombytes(numbers)
    return Embedding(
        vector=vector.tolist(), token_count=token_count, truncated=truncated, cached=True
    )


def _completion(kept: Mapping[str, Any]) -> Completion:
    read = dict(kept)
    if kept["logprobs"] is not None:
        read["logprobs"] = [_weighed(each) for each in kept["logprobs"]]
    if kept["tool_calls"] is not None:
        read["tool_calls"] = [ToolCall(**each) for each in kept["tool_calls"]]
    return Completion(**read)


def _weighed(kept: Mapping[str, Any]) -> TokenLogprob:
    by_id = {int(token_id): logprob for token_id, logprob in kept["by_id"].items()}
    return TokenLogprob(**{**kept, "by_id": by_id})
