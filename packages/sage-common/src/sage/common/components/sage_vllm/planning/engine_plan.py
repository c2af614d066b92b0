"""EnginePlan: what an engine will be, settled before anything is loaded.

The plan is pure: the same model, options and device give the same plan. `build` makes an engine
of it, `sage llm run --estimate` shows it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sage.common.components.sage_vllm.engine_contract import EngineSpec, Role
from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.planning.device import Device
from sage.common.components.sage_vllm.planning.memory_check import (
    DEFAULT_SHARE,
    Fit,
    InsufficientMemoryError,
    fit_of,
)
from sage.common.components.sage_vllm.planning.memory_estimate import (
    MemoryEstimate,
    estimate_memory,
)
from sage.common.components.sage_vllm.planning.missing_tensors import missing_tensors
from sage.common.components.sage_vllm.planning.model_config import language_config
from sage.common.components.sage_vllm.planning.model_files import (
    BrokenModelError,
    read_json,
    read_tensors,
    safetensors_files,
)
from sage.common.components.sage_vllm.planning.model_trust import check_remote_code, check_weights
from sage.common.components.sage_vllm.planning.scoring.model_head import (
    check_head,
    has_own_head,
)
from sage.common.components.sage_vllm.planning.sentence_pooling import (
    embedding_arguments,
    position_arguments,
)
from sage.common.components.sage_vllm.planning.text_prompts import TextPrompts, read_text_prompts
from sage.common.core.errors import Setting
from sage.common.model_registry.weights import is_adapter

logger = logging.getLogger(__name__)

_LARGEST_KV_CACHE = 4 << 30  # that we give an engine on a CPU, beyond what one sequence needs
_WHATEVER_FITS = -1  # as max_model_len, to vLLM
_LEAST_CONTEXT = 8192  # tokens: a model that has them is not cut below without being told to


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """What an engine will be.

    - ``spec``: what was asked for, with all options that vLLM gets in its ``arguments``.
    - ``device``: what it will run on.
    - ``estimate``: what it takes there; its ``max_model_len`` is the one that will be used.
    - ``fit``: whether that is there.
    - ``length_is_set``: whether ``max_model_len`` was asked for.
    - ``prompts``: an embedding model's.
    """

    spec: EngineSpec
    device: Device
    estimate: MemoryEstimate
    fit: Fit
    length_is_set: bool
    prompts: TextPrompts

    @property
    def held_bytes(self) -> int:
        """What the engine keeps of its device's memory: on a GPU the share it was given."""
        if self.fit.share_bytes is not None:
            return self.fit.share_bytes
        return self.estimate.fixed_bytes + (self.estimate.kv_cache_bytes or 0)

    def say_length(self, max_model_len: int) -> None:
        """Say where sequences are shorter than the model's, and nobody has set that."""
        longest = self.estimate.model_max_len
        if not self.length_is_set and longest is not None and max_model_len < longest:
            logger.warning(
                "%s: sequences have up to %s tokens of the model's %s, as memory holds no longer "
                "ones; %s sets another length",
                self.spec.model_id,
                f"{max_model_len:,}",
                f"{longest:,}",
                Setting(f"{self.estimate.option}.max_model_len"),
            )

    def check(self, known_types: Collection[str] = ()) -> None:
        """Raise what is in the way of an engine.

        Args:
            known_types: ``model_type``s that need no code from the model's folder.

        Raises:
            BrokenModelError: a file is missing or cut off.
            PickledWeightsError, RemoteCodeError: loading would run code that nobody allowed.
            InsufficientMemoryError: it does not fit; it says what would.
        """
        spec = self.spec
        check_weights(spec.model_id, spec.path, spec.arguments, allow_pickle=spec.allow_pickle)
        check_remote_code(
            spec.model_id,
            spec.path,
            spec.arguments,
            option=spec.option,
            known_types=known_types,
        )
        self.check_fit()

    def check_fit(self) -> None:
        """Raise InsufficientMemoryError where the engine does not fit."""
        if self.fit.problem is not None:
            raise InsufficientMemoryError(self.spec.model_id, self.fit, self.estimate)


def plan_engine(spec: EngineSpec, device: Device) -> EnginePlan:
    """Plan the engine of ``spec`` on ``device``.

    Raises BrokenModelError, UnsupportedModelError, InvalidOptionError for a LoRA adapter, and
    WrongModelTypeError for a model whose class has not the head of its role.

    What ``spec.arguments`` sets is kept, and of the device's memory no more than
    ``spec.memory_limit`` is taken for free. On a CPU the rest of what vLLM would do otherwise is:

    - no compilation: it takes minutes and gains little;
    - the device's ``dtype``: left alone, vLLM takes float16 for models that were stored in it and
      for embedding models, and that is emulated nearly everywhere;
    - a KV cache as large as a full batch of the longest sequences can fill, at most 4 GiB and a
      quarter of the free memory, but large enough for one sequence of the length asked for:
      vLLM's own default is nearly all memory of the machine.

    Where no ``max_model_len`` is set, it is what the KV cache holds, up to the model's: 8,192
    tokens at the least, or the model does not fit. On a GPU vLLM measures what the cache can be,
    and settles it.
    """
    if is_adapter(spec.path):
        raise _no_model(spec)
    check_head(spec)
    _check_tensors(spec)
    device = _limited(device, spec.memory_limit)
    arguments = _defaults(spec, device)
    length_is_set = spec.arguments.get("max_model_len") is not None
    estimate = estimate_memory(replace(spec, arguments=arguments), device.kind)
    if estimate.kv_cache_bytes is None:
        estimate = replace(estimate, kv_cache_bytes=device.kv_cache_bytes)
    longest = estimate.max_model_len
    if not length_is_set and longest is not None:
        least = min(_LEAST_CONTEXT, longest)
        estimate = replace(estimate, model_max_len=longest, max_model_len=least)
    fit = _fit(estimate, arguments, device, limited=device.free == spec.memory_limit)
    if fit.problem is None:
        if device.kind == "cpu" and estimate.kv_cache_bytes is None:
            size = _kv_cache_bytes(estimate, longest, fit.available)
            estimate = replace(estimate, kv_cache_bytes=size)
            arguments["kv_cache_memory_bytes"] = size
        if not length_is_set:
            estimate, length = _settle_length(estimate, longest, fit, device)
            arguments |= {} if length is None else {"max_model_len": length}
    return EnginePlan(
        spec=replace(spec, arguments=arguments),
        device=device,
        estimate=estimate,
        fit=fit,
        length_is_set=length_is_set,
        prompts=_prompts(spec),
    )


def _check_tensors(spec: EngineSpec) -> None:
    if spec.arguments.get("load_format") == "dummy":
        return
    names = [
        tensor.name
        for file in safetensors_files(spec.model_id, spec.path)
        for tensor in read_tensors(spec.model_id, file)
    ]
    config = language_config(spec.model_id, spec.path)
    generates = spec.role is Role.GENERATE
    scores = spec.role is Role.SCORE and has_own_head(spec)
    if missing := missing_tensors(config, names, generates=generates, scores=scores):
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if missing[3:] else "")
        raise BrokenModelError(spec.model_id, f"lacks the weights of {shown}", spec.path)


def _no_model(spec: EngineSpec) -> InvalidOptionError:
    adapter = read_json(spec.model_id, spec.path / "adapter_config.json", dict)
    base = adapter.get("base_model_name_or_path") or "the model that it was trained on"
    return InvalidOptionError(
        "model_id",
        spec.model_id,
        f"{spec.model_id!r} is a LoRA adapter, not a model",
        hint=f"load {base}, give the adapter to a call as lora={spec.model_id!r}, and configure",
        option="engine.enable_lora",
        value=True,
    )


def _prompts(spec: EngineSpec) -> TextPrompts:
    if spec.role is Role.EMBED:
        return read_text_prompts(spec.model_id, spec.path)
    return TextPrompts()


def _limited(device: Device, limit: int | None) -> Device:
    """Return the device as it is to an engine that may use so many bytes of it."""
    if limit is None or device.free is None:
        return device
    return replace(device, free=min(device.free, limit))


def _defaults(spec: EngineSpec, device: Device) -> dict[str, Any]:
    """Return what was asked for, and the rest of what vLLM would do otherwise."""
    added: dict[str, Any] = {}
    if device.kind == "cpu":
        added = {"enforce_eager": True, "dtype": device.dtype}
    arguments = {**added, **spec.arguments}
    if spec.role is Role.EMBED:
        arguments |= embedding_arguments(spec.model_id, spec.path, arguments)
    if spec.role is Role.SCORE:
        arguments |= position_arguments(spec.model_id, spec.path, arguments)
    return arguments


def _fit(
    estimate: MemoryEstimate, arguments: Mapping[str, Any], device: Device, *, limited: bool
) -> Fit:
    if device.free is None or device.total is None:
        return Fit()
    share = None
    if device.kind == "gpu":
        share = arguments.get("gpu_memory_utilization") or DEFAULT_SHARE
    return fit_of(estimate, free=device.free, total=device.total, share=share, limited=limited)


def _kv_cache_bytes(estimate: MemoryEstimate, longest: int | None, available: int) -> int:
    """Return the size of a KV cache on a CPU; see ``plan_engine``."""
    usual, cache = min(_LARGEST_KV_CACHE, available // 4), estimate.cache
    if cache is None or longest is None or estimate.max_model_len is None:
        return usual
    # Of each sequence's blocks one may be begun and not full.
    batch = estimate.batch_size * cache.bytes_for(longest + cache.block_size)
    least = cache.pool_bytes(estimate.max_model_len)
    return min(max(min(usual, batch), least), available - estimate.fixed_bytes)


def _settle_length(
    estimate: MemoryEstimate, longest: int | None, fit: Fit, device: Device
) -> tuple[MemoryEstimate, int | None]:
    """Return the estimate for the longest sequence that fits, and ``max_model_len`` for vLLM."""
    cache, size = estimate.cache, estimate.kv_cache_bytes
    if longest is None or (cache is not None and not cache.block_bytes):
        return replace(estimate, max_model_len=longest), None  # vLLM fits no unknown length
    if cache is None or not fit.available:
        return replace(estimate, max_model_len=longest), _WHATEVER_FITS
    room = fit.available - estimate.fixed_bytes
    fitting = cache.longest_within(room if size is None else size, longest)
    estimate = replace(estimate, max_model_len=fitting)
    if device.kind == "cpu":
        return estimate, fitting if fitting < longest else None
    return estimate, _WHATEVER_FITS
