"""How engines share a GPU: a ``gpu_memory_utilization`` for each, so that all can start.

vLLM gives an engine a share of all the device's memory, fills what the weights leave of it with KV
cache, and refuses to start where less than the share is free. An engine that embeds or scores needs
little: it gets what it takes, and the text engine the rest of the share that it would have alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def gpu_shares(main: EngineSpec, *others: EngineSpec, free: int, total: int) -> tuple[float, ...]:
    """Return ``gpu_memory_utilization`` for a text engine and others on one GPU.

    What ``arguments`` of any of them sets is taken as it is.

    Args:
        main: the engine that generates, or another that gets what is left.
        others: those that embed or score.
        free: bytes of the GPU that are free before any starts.
        total: bytes that it has.

    Raises:
        InvalidOptionError: the shares exceed 1 together, or one is none.
        InsufficientMemoryError: nothing would be left for the main engine.
        BrokenModelError: the files of one of the others are not readable.
    """
    asked_main = _asked(main)
    asked = [_asked(each) for each in others]
    estimates = [estimate_memory(each, "gpu") for each in others]
    shares = [
        _share_of(estimate, total) if share is None else share
        for share, estimate in zip(asked, estimates, strict=True)
    ]
    if asked_main is None:
        # Rounded down, so that the sum stays below what is free.
        main_share = _floor(min(DEFAULT_SHARE, free / total) - sum(shares))
        if main_share <= 0:
            raise _no_room(main, others, shares, estimates, free=free, total=total)
    else:
        main_share = asked_main
    if main_share + sum(shares) > 1 + 1e-9:  # 0.7 + 0.3 may be a little more
        raise _too_much(main, main_share, others, shares, asked)
    return main_share, *shares


def _no_room(
    main: EngineSpec,
    others: Sequence[EngineSpec],
    shares: Sequence[float],
    estimates: Sequence[MemoryEstimate],
    *,
    free: int,
    total: int,
) -> InsufficientMemoryError:
    largest = shares.index(max(shares))
    estimate, role = estimates[largest], others[largest].role.label
    fit = Fit(
        problem=f"the {role} engine of {others[largest].model_id!r} takes {shares[largest]:g} "
        f"of the device's {format_bytes(total)}, of which {format_bytes(free)} are free",
        hint=f"choose a smaller {role} model, or set",
        settings=(Setting(f"{estimate.option}.{_SHARE}"),),
        available=free,
    )
    return InsufficientMemoryError(main.model_id, fit, estimate)


def _too_much(
    main: EngineSpec,
    main_share: float,
    others: Sequence[EngineSpec],
    shares: Sequence[float],
    asked: Sequence[float | None],
) -> InvalidOptionError:
    said = [f"{main.option}={{'{_SHARE}': {main_share:g}}}"]
    said += [
        f"{each.option}={{'{_SHARE}': {share:g}}}{'' if given is not None else ' (what it needs)'}"
        for each, share, given in zip(others, shares, asked, strict=True)
    ]
    return InvalidOptionError(
        _SHARE,
        main_share,
        f"{' and '.join(said)} exceed 1 together, and they share one device",
        hint="lower one of them, such as",
        option=f"{main.option}.{_SHARE}",
        value=_floor(1 - sum(shares)) or None,
    )


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
