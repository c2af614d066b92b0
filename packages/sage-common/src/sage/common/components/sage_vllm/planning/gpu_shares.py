"""How two engines share a GPU: a ``gpu_memory_utilization`` for each, so that both can start.

vLLM gives an engine a share of all the device's memory, fills what the weights leave of it with KV
cache, and refuses to start where less than the share is free. An embedding engine needs little:
it gets what it takes, and the text engine the rest of the share that it would have alone.
"""

from __future__ import annotations

import math
from typing import Any

from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.planning.memory_check import (
    DEFAULT_SHARE,
    Fit,
    InsufficientMemoryError,
)
from sage.common.components.sage_vllm.planning.memory_estimate import (
    MemoryEstimate,
    estimate_memory,
)
from sage.common.core.errors import Setting
from sage.common.model_registry.vllm_registry import format_bytes

_SHARE = "gpu_memory_utilization"
_UNKNOWN_CACHE = 0.1  # of the device, where the architecture does not tell


def gpu_shares(
    text: EngineSpec, embedding: EngineSpec, *, free: int, total: int
) -> tuple[float, float]:
    """Return ``gpu_memory_utilization`` for a text and an embedding engine on one GPU.

    What ``arguments`` of either sets is taken as it is.

    Args:
        text: the engine that generates.
        embedding: the engine that embeds.
        free: bytes of the GPU that are free before either starts.
        total: bytes that it has.

    Raises:
        InvalidOptionError: the two shares exceed 1 together, or one is none.
        InsufficientMemoryError: nothing would be left for the text engine.
        BrokenModelError: the embedding model's files are not readable.
    """
    asked_text = _asked(text)
    asked_embedding = _asked(embedding)
    estimate = estimate_memory(embedding, "gpu")
    embedding_share = asked_embedding if asked_embedding is not None else _share_of(estimate, total)
    if asked_text is None:
        # Rounded down, so that the sum stays below what is free.
        text_share = _floor(min(DEFAULT_SHARE, free / total) - embedding_share)
        if text_share <= 0:
            fit = Fit(
                problem=f"the embedding engine of {embedding.model_id!r} takes {embedding_share:g} "
                f"of the device's {format_bytes(total)}, of which {format_bytes(free)} are free",
                hint="choose a smaller embedding model, or set",
                settings=(Setting(f"{estimate.option}.{_SHARE}"),),
                available=free,
            )
            raise InsufficientMemoryError(text.model_id, fit, estimate)
    else:
        text_share = asked_text
    if text_share + embedding_share > 1 + 1e-9:  # 0.7 + 0.3 may be a little more
        raise InvalidOptionError(
            _SHARE,
            asked_text,
            f"engine={{'{_SHARE}': {text_share:g}}} and "
            f"embedding_engine={{'{_SHARE}': {embedding_share:g}}}"
            f"{'' if asked_embedding is not None else ' (what it needs)'} "
            f"exceed 1 together, and they share one device",
            hint="lower one of them, such as",
            option=f"engine.{_SHARE}",
            value=_floor(1 - embedding_share) or None,
        )
    return text_share, embedding_share


def _asked(spec: EngineSpec) -> float | None:
    value: Any = spec.arguments.get(_SHARE)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        problem = f"{_SHARE} must be above 0 and at most 1, not {value!r}"
        raise InvalidOptionError(_SHARE, value, problem)
    return float(value)


def _share_of(estimate: MemoryEstimate, total: int) -> float:
    """Return the share for weights, activations and a KV cache for all tokens of a step."""
    if estimate.kv_cache_bytes is not None:
        cache = estimate.kv_cache_bytes
    elif estimate.cache is None:
        cache = int(_UNKNOWN_CACHE * total)
    else:
        tokens = max(estimate.max_model_len or 0, estimate.step_tokens)
        cache = estimate.cache.pool_bytes(tokens)
    needed = estimate.fixed_bytes + cache
    return math.ceil(100 * needed / total) / 100


def _floor(share: float) -> float:
    return math.floor(100 * share + 1e-9) / 100
