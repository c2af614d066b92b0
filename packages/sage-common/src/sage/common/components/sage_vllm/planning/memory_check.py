"""Fit: whether an engine fits the memory there is, said before anything is loaded.

InsufficientMemoryError    (EngineError, MemoryError)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sage.common.components.sage_vllm.errors import EngineError
from sage.common.components.sage_vllm.planning.memory_estimate import MemoryEstimate
from sage.common.core.errors import Setting
from sage.common.model_registry.vllm_registry import format_bytes

DEFAULT_SHARE = 0.92
"""vLLM's default for ``gpu_memory_utilization``."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether an engine fits, as data; ``InsufficientMemoryError`` renders one that does not.

    - ``problem``: what is in the way, with the numbers; None where it fits.
    - ``hint``: what to do about it; where there are settings, what leads up to them.
    - ``settings``: options each of which mends it.
    - ``available``: the bytes that the engine may use of a device.
    - ``share_bytes``: what it takes of a device in any case, its share; None where it takes what
      it needs.
    - ``largest_max_model_len``: the longest sequence that fits, in tokens; None where the weights
      alone do not or where another option is in the way.
    """

    problem: str | None = None
    hint: str | None = None
    settings: tuple[Setting, ...] = ()
    available: int = 0
    share_bytes: int | None = None
    largest_max_model_len: int | None = None


class InsufficientMemoryError(EngineError, MemoryError):
    """The model does not fit.

    ``reason`` says why, without the model's name. ``estimate`` is what the model needs;
    ``available``, ``share_bytes`` and ``largest_max_model_len`` are those of its ``Fit``.
    """

    def __init__(self, model_id: str, fit: Fit, estimate: MemoryEstimate | None = None) -> None:
        super().__init__(
            model_id,
            f"{model_id!r} does not fit: {fit.problem}",
            hint=fit.hint,
            settings=fit.settings,
        )
        self.reason = fit.problem
        self.estimate = estimate
        self.available = fit.available
        self.share_bytes = fit.share_bytes
        self.largest_max_model_len = fit.largest_max_model_len


def fit_of(
    estimate: MemoryEstimate,
    *,
    free: int,
    total: int,
    share: float | None = None,
    limited: bool = False,
) -> Fit:
    """Return whether the engine can start and hold one longest sequence.

    Args:
        estimate: what the engine takes on each device.
        free: bytes of the device's memory that are free, of the device with the least.
        total: bytes that the device has.
        share: ``gpu_memory_utilization``; None where the engine takes what it needs, as on a CPU.
        limited: whether ``free`` is what a budget leaves to the engine, of more that is free.
    """
    # vLLM holds an engine to its share only where it sizes the KV cache itself.
    share_bytes = None
    if share is not None and estimate.kv_cache_bytes is None:
        share_bytes = int(share * total)
    there = f"{format_bytes(free)} of {format_bytes(total)} are free"
    if limited:
        there = f"it may use {format_bytes(free)}"
    budget = free
    if share_bytes is not None:
        budget = share_bytes
        there = f"it may use {format_bytes(budget)} (gpu_memory_utilization {share:g}), and {there}"
    fit = Fit(available=budget, share_bytes=share_bytes)
    if share is not None and share * total > free:
        room = format_bytes(free)
        only = f"it may use only {room}" if limited else f"only {room} are free"
        return _share_is_not_free(fit, estimate, share, only, free=free, total=total)
    if estimate.fixed_bytes > budget:
        return _weights_are_too_large(fit, estimate, there, free=free, total=total)
    return _fit_of_cache(fit, estimate, there)


def _share_is_not_free(
    fit: Fit, estimate: MemoryEstimate, share: float, only: str, *, free: int, total: int
) -> Fit:
    option, free_share = f"{estimate.option}.gpu_memory_utilization", _free_share(free, total)
    return replace(
        fit,
        available=free,
        problem=f"vLLM takes a share of {share:g} of the device's {format_bytes(total)}, and "
        f"{only}",
        hint="end what else uses the device, or set",
        settings=(Setting(option, free_share, "or less"),),
    )


def _weights_are_too_large(
    fit: Fit, estimate: MemoryEstimate, there: str, *, free: int, total: int
) -> Fit:
    option = estimate.option
    if estimate.fixed_bytes <= free:  # only the share is too small
        share = min(math.ceil(100 * estimate.total_bytes / total) / 100, _free_share(free, total))
        hint, setting = None, Setting(f"{option}.gpu_memory_utilization", share, "or more")
    else:
        hint = (
            "that alone does not fit: choose a smaller or a quantised model, or spread it over "
            "several devices with"
        )
        setting = Setting(f"{option}.tensor_parallel_size")
    problem = f"{_parts(estimate)}; {there}"
    return replace(fit, problem=problem, hint=hint, settings=(setting,))


def _fit_of_cache(fit: Fit, estimate: MemoryEstimate, there: str) -> Fit:
    """Return whether the KV cache fits beside the rest, and one longest sequence in it."""
    room, asked = fit.available - estimate.fixed_bytes, estimate.kv_cache_bytes
    size = Setting(f"{estimate.option}.kv_cache_memory_bytes", room, "or less")
    if asked is not None and asked > room:
        problem = (
            f"{_parts(estimate)}, and {format_bytes(asked)} for its KV cache, as "
            f"kv_cache_memory_bytes says; {there}"
        )
        return replace(fit, problem=problem, settings=(size,))
    cache, length = estimate.cache, estimate.max_model_len
    limit = room if asked is None else asked
    if cache is None or length is None or not cache.block_bytes:
        return fit
    if (needed := cache.pool_bytes(length)) <= limit:
        return fit
    largest = cache.longest_within(limit, length)
    settings = []
    if largest:
        settings.append(Setting(f"{estimate.option}.max_model_len", largest, "or less"))
    if asked is not None:
        there = f"kv_cache_memory_bytes gives it {format_bytes(asked)}, and {there}"
        if needed <= room:
            settings.append(replace(size, value=needed, qualifier=""))
    return replace(
        fit,
        problem=f"{_parts(estimate)}, and {format_bytes(needed)} for the KV cache of one sequence "
        f"of {length:,} tokens; {there}",
        hint=None if settings else "choose a smaller model",
        settings=tuple(settings),
        largest_max_model_len=largest or None,
    )


def _free_share(free: int, total: int) -> float:
    return math.floor(100 * free / total) / 100


def _parts(estimate: MemoryEstimate) -> str:
    return (
        f"it needs {format_bytes(estimate.weight_bytes)} for its weights in {estimate.dtype}, "
        f"{format_bytes(estimate.overhead_bytes)} for the engine and its activations"
    )
