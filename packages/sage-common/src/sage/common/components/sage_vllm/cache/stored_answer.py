"""Generations as bytes, for a cache to keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sage.common.components.sage_vllm.engine_contract import (
    Completion,
    Generation,
    TokenLogprob,
    ToolCall,
)

_WHOLE = ("stop", "length", "tool_calls")


def stored(generation: Generation) -> bytes | None:
    """Return the form in which a generation is kept; None for one that is not whole."""
    if any(each.finish_reason not in _WHOLE for each in generation.completions):
        return None  # its deadline, or its caller, ended it
    completions = [asdict(completion) for completion in generation.completions]
    return json.dumps([generation.prompt_token_count, completions]).encode()


def restored(kept: bytes, *, request_id: str, latency: float) -> Generation:
    """Return the generation that was kept; raises ValueError, TypeError or KeyError."""
    prompt_tokens, completions = json.loads(kept)
    return Generation(
        request_id=request_id,
        prompt_token_count=prompt_tokens,
        completions=[_completion(each) for each in completions],
        latency=latency,
        cached=True,
    )


def _completion(kept: Mapping[str, Any]) -> Completion:
    read = dict(kept)
    for name, kind in (("logprobs", TokenLogprob), ("tool_calls", ToolCall)):
        if kept[name] is not None:
            read[name] = [kind(**each) for each in kept[name]]
    return Completion(**read)
