"""MemoryEstimate: what a model will take on each device, from its headers and configuration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sage.common.components.sage_vllm.engine_contract import EngineSpec, Role
from sage.common.components.sage_vllm.planning.device import DeviceKind
from sage.common.components.sage_vllm.planning.kv_cache_layout import KVCache, is_encoder, kv_cache
from sage.common.components.sage_vllm.planning.model_config import language_config, longest_sequence
from sage.common.components.sage_vllm.planning.model_files import (
    Tensor,
    read_tensors,
    safetensors_files,
)
from sage.common.components.sage_vllm.planning.model_trust import pickled_files

DTYPE_BYTES = {
    "float32": 4,
    "float": 4,
    "float16": 2,
    "half": 2,
    "bfloat16": 2,
}
_PLAIN_DTYPES = ("F64", "F32", "F16", "BF16")  # cast to the engine's dtype when they are loaded
_FIXED = {
    # Measured with vLLM 0.32 on random Llamas of 0.2 M and 28 M parameters and all-MiniLM-L6-v2:
    # 680, 720 and 810 MB at the peak, over an empty Python and what is counted here otherwise. Most
    # of it (590 MB) is vLLM and torch themselves, so a second engine in a process takes less.
    "cpu": 800 << 20,
    # An allowance, not a measurement: the CUDA context, workspaces and captured graphs.
    "gpu": 1 << 30,
}
_BLOCK = {"cpu": 128, "gpu": 16}  # vLLM's defaults, in tokens
_BATCHED_TOKENS = {"cpu": 4096, "gpu": 8192}  # as above, of its offline LLM class
BATCH_SIZE = 256
"""Requests that an engine works on at once, unless ``max_num_seqs`` is set; vLLM's own default."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """What an engine takes on each of its devices, in bytes; lengths are in tokens.

    - ``weight_bytes``: the weights in the dtype they are loaded in.
    - ``overhead_bytes``: activations of one full step, and what the engine itself takes.
    - ``cache``: how it keeps keys and values; None where the architecture does not tell.
    - ``model_max_len``: the longest sequence of the model; None where that cannot be told.
    - ``max_model_len``: the longest sequence of the engine; None where that is left to vLLM.
    - ``batch_size``: how many sequences one step works on at most.
    - ``step_tokens``: how many tokens one step works on at most.
    - ``kv_cache_bytes``: the size that the whole KV cache is set to; None where vLLM sizes it.
    - ``option_group``: where a configuration has the engine's options; None is where its role has.
    """

    model_id: str
    role: Role
    dtype: str
    weight_bytes: int
    overhead_bytes: int
    cache: KVCache | None
    model_max_len: int | None
    max_model_len: int | None
    batch_size: int
    step_tokens: int
    kv_cache_bytes: int | None = None
    option_group: str | None = None

    @property
    def fixed_bytes(self) -> int:
        """What it needs beside the KV cache."""
        return self.weight_bytes + self.overhead_bytes

    @property
    def kv_bytes(self) -> int | None:
        """The least KV cache: for one longest sequence; None where that cannot be told."""
        if self.cache is None:
            return None
        if not self.cache.block_bytes:
            return 0
        return None if self.max_model_len is None else self.cache.pool_bytes(self.max_model_len)

    @property
    def total_bytes(self) -> int:
        """The least that the engine needs: all of it, as far as it can be told."""
        return self.fixed_bytes + (self.kv_bytes or 0)

    @property
    def option(self) -> str:
        """The service's configuration key for this engine's options."""
        return self.option_group or self.role.option


def estimate_memory(spec: EngineSpec, device: DeviceKind) -> MemoryEstimate:
    """Estimate what the engine of ``spec`` takes on each device; no weight is read.

    ``spec.arguments`` must be all that the engine gets, the defaults for its device included.
    Raises BrokenModelError.
    """
    config = language_config(spec.model_id, spec.path)
    tensors = [
        tensor
        for file in safetensors_files(spec.model_id, spec.path)
        for tensor in read_tensors(spec.model_id, file)
    ]
    arguments = spec.arguments
    dtype = _loaded_dtype(config, tensors, arguments)
    if tensors:
        weights = sum(_loaded_bytes(tensor, config, dtype, arguments) for tensor in tensors)
    else:
        weights = sum(file.stat().st_size for file in pickled_files(spec.path))
    shards = _count(arguments, "tensor_parallel_size", 1)
    stages = _count(arguments, "pipeline_parallel_size", 1)
    offloaded = int(float(arguments.get("cpu_offload_gb") or 0) * (1 << 30))
    model_max_len = longest_sequence(config, spec.model_id, spec.path)
    asked = arguments.get("max_model_len")
    max_model_len = model_max_len if asked is None else _count(arguments, "max_model_len", 0)
    step_tokens = _step_tokens(spec, config, device, max_model_len or 0)
    return MemoryEstimate(
        model_id=spec.model_id,
        role=spec.role,
        dtype=dtype,
        weight_bytes=max(0, math.ceil(weights / (shards * stages)) - offloaded),
        overhead_bytes=_overhead(spec, config, dtype, device, step_tokens),
        cache=kv_cache(
            config,
            (tensor.name for tensor in tensors),
            role=spec.role,
            cache_dtype=str(arguments.get("kv_cache_dtype") or "auto"),
            dtype_bytes=DTYPE_BYTES.get(dtype, 2),
            block_size=_count(arguments, "block_size", _BLOCK[device]),
            in_flight=step_tokens,
            shards=shards,
            stages=stages,
        ),
        model_max_len=model_max_len,
        max_model_len=max_model_len or None,  # -1: whatever fits
        batch_size=_count(arguments, "max_num_seqs", BATCH_SIZE),
        step_tokens=step_tokens,
        kv_cache_bytes=arguments.get("kv_cache_memory_bytes"),
        option_group=spec.option,
    )


def _step_tokens(
    spec: EngineSpec, config: Mapping[str, Any], device: DeviceKind, longest: int
) -> int:
    """Return how many tokens a step works on at most: an encoder reads each text in one."""
    asked = _count(spec.arguments, "max_num_batched_tokens", 0)
    if asked or not longest:
        return asked or _BATCHED_TOKENS[device]
    usual = _BATCHED_TOKENS[device]
    if spec.role is not Role.GENERATE and is_encoder(config):
        usual = max(usual, longest)
    return min(usual, _count(spec.arguments, "max_num_seqs", BATCH_SIZE) * longest)


def _loaded_dtype(
    config: Mapping[str, Any], tensors: Iterable[Tensor], arguments: Mapping[str, Any]
) -> str:
    """Return the dtype that vLLM casts to: the one asked for, else the model's, never 32 bits."""
    asked = str(arguments.get("dtype") or "auto").removeprefix("torch.").lower()
    if asked != "auto":
        return asked
    named = config.get("dtype") or config.get("torch_dtype")
    if named is None:
        named = "float16" if any(tensor.dtype == "F16" for tensor in tensors) else "bfloat16"
    return "bfloat16" if named == "float32" else str(named)


def _loaded_bytes(
    tensor: Tensor, config: Mapping[str, Any], dtype: str, arguments: Mapping[str, Any]
) -> float:
    tied = config.get("tie_word_embeddings")
    if tied and tensor.name == "lm_head.weight":
        return 0  # the input embedding serves for both
    if tensor.dtype not in _PLAIN_DTYPES:
        return tensor.stored_bytes  # quantised or integers: loaded as they are
    quantization = arguments.get("quantization")
    is_matrix = len(tensor.shape) >= 2 and "embed" not in tensor.name and "head" not in tensor.name
    if quantization and not config.get("quantization_config") and is_matrix:
        # Quantised while they are loaded: to 8 bits, or 4 as bitsandbytes and those with a 4 do.
        return tensor.elements * (
            0.5 if "4" in str(quantization) or quantization == "bitsandbytes" else 1
        )
    return tensor.elements * DTYPE_BYTES.get(dtype, 2)


def _overhead(
    spec: EngineSpec, config: Mapping[str, Any], dtype: str, device: DeviceKind, tokens: int
) -> int:
    """Allow for one step: a few rows of the widest layer per token, and logits per sequence.

    The residual, the normalised input, queries, keys and values, and both halves of the gated
    layer are alive at once at the most; logits are computed in float32, with one copy to sort.

    On a CPU vLLM packs the table of tokens and the head for its matrix products, tied or not, and
    keeps both as they were besides (its ``dispatch_cpu_unquantized_gemm``).
    """
    hidden = _number(config, "hidden_size", "n_embd", "d_model")
    inner = _number(config, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    step = tokens * (5 * hidden + 3 * inner) * DTYPE_BYTES.get(dtype, 2)
    vocabulary = _number(config, "vocab_size")
    logits, tables = 0, 1
    if spec.role is Role.GENERATE:
        sequences = _count(spec.arguments, "max_num_seqs", BATCH_SIZE)
        logits, tables = 2 * 4 * sequences * vocabulary, 2
    packed = tables * vocabulary * hidden * DTYPE_BYTES.get(dtype, 2) if device == "cpu" else 0
    return _FIXED[device] + step + logits + packed


def _count(arguments: Mapping[str, Any], name: str, default: int) -> int:
    """Return an option that is a number above 0, or the default where it is not set to one."""
    value = arguments.get(name)
    return value if isinstance(value, int) and value > 0 else default


def _number(config: Mapping[str, Any], *names: str) -> int:
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int)), 0)
