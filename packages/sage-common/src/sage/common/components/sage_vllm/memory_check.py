"""Whether an engine fits the memory there is, said before anything is loaded.

InsufficientMemoryError    (EngineError, MemoryError)
"""

from __future__ import annotations

import math

from sage.common.components.sage_vllm.errors import EngineError
from sage.common.components.sage_vllm.memory_estimate import MemoryEstimate
from sage.common.model_registry.vllm_registry import format_bytes

DEFAULT_SHARE = 0.92
"""vLLM's default for ``gpu_memory_utilization``."""


class InsufficientMemoryError(EngineError, MemoryError):
    """The model does not fit.

    ``estimate`` is what it needs, ``available`` the bytes that it may use,
    ``largest_max_model_len`` the longest sequence that fits, None where the weights alone do not
    or where another option is in the way.
    """

    def __init__(
        self,
        model_id: str,
        reason: str,
        estimate: MemoryEstimate | None = None,
        available: int = 0,
        largest_max_model_len: int | None = None,
    ) -> None:
        super().__init__(model_id, reason)
        self.estimate = estimate
        self.available = available
        self.largest_max_model_len = largest_max_model_len

    def __str__(self) -> str:
        return f"{self.model_id!r} does not fit: {self.reason}"


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
    if share is not None:
        _check_share(estimate, share, free=free, total=total)
    # vLLM holds an engine to its share only where it sizes the KV cache itself.
    limited = share is not None and estimate.kv_cache_bytes is None
    budget = int(share * total) if limited and share is not None else free
    room = budget - estimate.weight_bytes - estimate.overhead_bytes
    there = f"{format_bytes(free)} of {format_bytes(total)} are free"
    if limited:
        there = f"it may use {format_bytes(budget)} (gpu_memory_utilization {share:g}), and {there}"
    if room < 0:
        raise InsufficientMemoryError(
            estimate.model_id,
            f"{_parts(estimate)}, already without its KV cache, and {there}; choose a smaller or "
            f"quantised model, or more devices with {estimate.option}={{'tensor_parallel_size': "
            f"N}}",
            estimate,
            budget,
        )
    cache = estimate.kv_cache_bytes
    if cache is not None:
        if cache > room:
            raise InsufficientMemoryError(
                estimate.model_id,
                f"{_parts(estimate)} and {format_bytes(cache)} for the KV cache "
                f"(kv_cache_memory_bytes), and {there}; set {estimate.option}="
                f"{{'kv_cache_memory_bytes': {room}}} or less",
                estimate,
                budget,
            )
        room = cache
        there = f"{format_bytes(cache)} are set aside for it (kv_cache_memory_bytes), {there}"
    _check_longest_sequence(estimate, room, budget, there)


def _check_share(estimate: MemoryEstimate, share: float, *, free: int, total: int) -> None:
    if share * total <= free:
        return
    most = math.floor(100 * free / total) / 100
    raise InsufficientMemoryError(
        estimate.model_id,
        f"vLLM takes a share of {share:g} of the device's {format_bytes(total)}, and only "
        f"{format_bytes(free)} are free; end what else uses the device, or set {estimate.option}="
        f"{{'gpu_memory_utilization': {most:g}}} or less",
        estimate,
        free,
    )


def _check_longest_sequence(estimate: MemoryEstimate, room: int, budget: int, there: str) -> None:
    needed = estimate.kv_bytes
    if not needed or needed <= room or not estimate.kv_bytes_per_token:
        return
    largest = room // (estimate.kv_bytes_per_token * estimate.block_size) * estimate.block_size
    length = f"{estimate.max_model_len:,} tokens"
    if largest:
        way_out = f"set {estimate.option}={{'max_model_len': {largest}}} or less"
    else:
        way_out = "choose a smaller model"
    raise InsufficientMemoryError(
        estimate.model_id,
        f"{_parts(estimate)} and {format_bytes(needed)} of KV cache for one sequence of {length}, "
        f"and {there}; {way_out}",
        estimate,
        budget,
        largest or None,
    )


def _parts(estimate: MemoryEstimate) -> str:
    return (
        f"it needs {format_bytes(estimate.weight_bytes)} for its weights in {estimate.dtype}, "
        f"{format_bytes(estimate.overhead_bytes)} for activations and the engine itself"
    )
