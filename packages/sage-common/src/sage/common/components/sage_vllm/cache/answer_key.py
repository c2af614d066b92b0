"""What the answer of a request follows from, as bytes that are equal if and only if that is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from sage.common.components.sage_vllm.engine_contract import EngineInfo, EngineSpec

_FORMAT = 1  # of what is kept; another one finds nothing that was kept before
# Options of an engine by which it gives no other answers, or whose effect is told otherwise: dtype
# and quantization by its info, max_model_len by each request's limit. All others count.
_WITHOUT_EFFECT = frozenset({
    "async_scheduling",
    "disable_log_stats",
    "dtype",
    "enable_chunked_prefill",
    "enable_lora",
    "enable_prefix_caching",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_cpu_loras",
    "max_lora_rank",
    "max_loras",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "quantization",
})  # fmt: skip


def request_key(
    rendered: Mapping[str, Any],
    params: Any,
    max_model_len: int,
    *,
    adapter: str = "",
    reading: Any = None,
) -> bytes | None:
    """Return what the answer of a request follows from within its engine.

    None where the answer is not determined, at a temperature without a seed, or where more than
    tokens are the prompt.

    Args:
        rendered: the prompt as vLLM takes it.
        params: vLLM's SamplingParams, which have all defaults in them and the same form for what
            means the same.
        max_model_len: the longest sequence of the engine, in tokens.
        adapter: the adapter's name with its commit, empty without one.
        reading: how thinking and calls of tools are told from the answer, as plain data.
    """
    from msgspec import msgpack as encoder
    from msgspec import structs

    if params.sampling_type.name == "RANDOM":
        return None
    if rendered.get("type") != "token" or rendered.get("cache_salt") is not None:
        return None
    options = structs.asdict(params)
    del options["output_kind"]  # which changes how often it is told, not what
    for name in _real_numbers(type(params)):  # type: ignore[arg-type]  # types can be hashed
        options[name] = float(options[name])  # a temperature of 0 is one of 0.0
    tokens = rendered["prompt_token_ids"]
    room = max_model_len - len(tokens)
    options["max_tokens"] = min(options["max_tokens"] or room, room)
    try:
        return encoder.encode([adapter, reading, options, tokens], order="deterministic")
    except (TypeError, ValueError, OverflowError):  # an extra argument that msgpack does not know
        return None


@cache
def _real_numbers(kind: type[Any]) -> tuple[str, ...]:
    """Return the names of a struct's fields that are numbers with a fraction."""
    from msgspec import structs

    return tuple(each.name for each in structs.fields(kind) if isinstance(each.default, float))


def engine_fingerprint(spec: EngineSpec, info: EngineInfo) -> bytes:
    """Return a digest of all that the answers of an engine follow from, beside the requests."""
    facts = {
        "format": _FORMAT,
        "model": spec.model_id,
        "commit": spec.path.name,
        "dtype": info.dtype,
        "quantization": info.quantization,
        "engine": info.version,
        "device": info.device,
        "arguments": {
            name: value for name, value in spec.arguments.items() if name not in _WITHOUT_EFFECT
        },
    }
    return hashlib.sha256(_dumps(facts).encode()).digest()


def cache_key(fingerprint: bytes, request: bytes) -> bytes:
    """Return the name by which an answer is kept, 32 bytes."""
    return hashlib.sha256(fingerprint + request).digest()


_dumps = partial(json.dumps, sort_keys=True, default=repr)
