"""Whether an engine fits the memory there is, said before anything is loaded.

InsufficientMemoryError    (EngineError, MemoryError)
"""

from __future__ import annotations

import math
from typing import Unpack

from sage.common.components.sage_vllm.errors import EngineError
from sage.common.components.sage_vllm.fit.memory_estimate import MemoryEstimate
from sage.common.core.errors import Setting, WayOut
from sage.common.model_registry.vllm_registry import format_bytes

DEFAULT_SHARE = 0.92
"""vLLM's default for ``gpu_memory_utilization``."""


class InsufficientMemoryError(EngineError, MemoryError):
    """The model does not fit.

    ``estimate`` is what it needs, ``available`` the bytes that it may use,
    ``largest_max_model_len`` the longest sequence that fits, None where the weights alone do not
    or where another option is in the way. ``share_bytes`` is what the engine would take of the
    device in any case, its share of it; None where it takes what it needs. ``reason`` is the
    problem without the model's name.
    """

    def __init__(
        self,
        model_id: str,
        reason: str,
        estimate: MemoryEstimate | None = None,
        available: int = 0,
        largest_max_model_len: int | None = None,
        *,
        share_bytes: int | None = None,
        **way_out: Unpack[WayOut],
    ) -> None:
        super().__init__(model_id, f"{model_id!r} does not fit: {reason}", **way_out)
        self.reason = reason
        self.estimate = estimate
        self.available = available
        self.largest_max_model_len = largest_max_model_len
        self.share_bytes = share_bytes


def check_fits(
    estimate: MemoryEstimate, *, free: int, total: int, share: float | None = None
) -> None:
    """Raise InsufficientMemoryError unless the engine can start and hold one longest sequence.

    Args:
        estimate: what the engine takes on each device.
        free: bytes of the device's memory that are free, of the device with the least.
        total: bytes that the device has.
        share: ``gpu_memory_utilization``; None where the engine takes what it needs, as on a CPU.
    """
    # vLLM holds an engine to its share only where it sizes the KV cache itself.
    share_bytes = None
    if share is not None and estimate.kv_cache_bytes is None:
        share_bytes = int(share * total)
    if share is not None:
        _check_share(estimate, share, share_bytes, free=free, total=total)
    fixed = estimate.weight_bytes + estimate.overhead_bytes
    there = f"{format_bytes(free)} of {format_bytes(total)} are free"
    budget = free
    if share_bytes is not None:
        budget = share_bytes
        there = f"it may use {format_bytes(budget)} (gpu_memory_utilization {share:g}), and {there}"
    if fixed > budget:
        raise InsufficientMemoryError(
            estimate.model_id,
            f"{_parts(estimate)}; {there}",
            estimate,
            budget,
            share_bytes=share_bytes,
            **_way_out_for_weights(estimate, free=free, total=total),
        )
    _check_cache(estimate, budget - fixed, budget, there, share_bytes)


def _check_share(
    estimate: MemoryEstimate, share: float, share_bytes: int | None, *, free: int, total: int
) -> None:
    if share * total <= free:
        return
    raise InsufficientMemoryError(
        estimate.model_id,
        f"vLLM takes a share of {share:g} of the device's {format_bytes(total)}, and only "
        f"{format_bytes(free)} are free",
        estimate,
        free,
        share_bytes=share_bytes,
        hint="end what else uses the device, or set",
        settings=(
            Setting(
                f"{estimate.option}.gpu_memory_utilization", _free_share(free, total), "or less"
            ),
        ),
    )


def _way_out_for_weights(estimate: MemoryEstimate, *, free: int, total: int) -> WayOut:
    if estimate.weight_bytes + estimate.overhead_bytes <= free:  # only the share is too small
        share = min(math.ceil(100 * estimate.total_bytes / total) / 100, _free_share(free, total))
        return WayOut(
            settings=(Setting(f"{estimate.option}.gpu_memory_utilization", share, "or more"),)
        )
    return WayOut(
        hint="that alone does not fit: choose a smaller or a quantised model, or spread it over "
        "several devices with",
        option=f"{estimate.option}.tensor_parallel_size",
    )


def _check_cache(
    estimate: MemoryEstimate, room: int, budget: int, there: str, share_bytes: int | None
) -> None:
    """Check that the KV cache fits in ``room``, and one longest sequence in the KV cache."""
    option, cache, needed = estimate.option, estimate.kv_cache_bytes, estimate.kv_bytes or 0
    cache_option = f"{option}.kv_cache_memory_bytes"
    if cache is not None and cache > room:
        raise InsufficientMemoryError(
            estimate.model_id,
            f"{_parts(estimate)}, and {format_bytes(cache)} for its KV cache, as "
            f"kv_cache_memory_bytes says; {there}",
            estimate,
            budget,
            share_bytes=share_bytes,
            settings=(Setting(cache_option, room, "or less"),),
        )
    limit = room if cache is None else cache
    if needed <= limit:
        return
    largest = _longest_within(estimate, limit)
    settings = [Setting(f"{option}.max_model_len", largest, "or less")] if largest else []
    if cache is not None:
        there = f"kv_cache_memory_bytes gives it {format_bytes(cache)}, and {there}"
        if needed <= room:
            settings.append(Setting(cache_option, needed))
    raise InsufficientMemoryError(
        estimate.model_id,
        f"{_parts(estimate)}, and {format_bytes(needed)} for the KV cache of one sequence of "
        f"{estimate.max_model_len:,} tokens; {there}",
        estimate,
        budget,
        largest or None,
        share_bytes=share_bytes,
        hint=None if settings else "choose a smaller model",
        settings=tuple(settings),
    )


def _longest_within(estimate: MemoryEstimate, limit: int) -> int:
    """Return the tokens that the whole blocks within ``limit`` bytes hold."""
    per_block = (estimate.kv_bytes_per_token or 0) * estimate.block_size
    return limit // per_block * estimate.block_size if per_block else 0


def _free_share(free: int, total: int) -> float:
    return math.floor(100 * free / total) / 100


def _parts(estimate: MemoryEstimate) -> str:
    return (
        f"it needs {format_bytes(estimate.weight_bytes)} for its weights in {estimate.dtype}, "
        f"{format_bytes(estimate.overhead_bytes)} for the engine and its activations"
    )
