"""The engine options that make vLLM start and run well on a CPU."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.host.host_memory import host_memory
from sage.common.components.sage_vllm.host.mapped_memory import promised_bytes

_LARGEST_KV_CACHE = 4 << 30
_BATCH_SIZE = 256  # vLLM's default for max_num_seqs on a CPU
_BLOCK = 128  # tokens in a block of vLLM's KV cache on a CPU


def cpu_defaults(model: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return options for a CPU, to be used where ``arguments`` does not set them.

    - no compilation: it takes minutes and gains little;
    - a KV cache no larger than a full batch of the longest sequences can fill, at most 4 GiB and a
      quarter of the free memory: vLLM's own default is nearly all memory of the machine;
    - bfloat16 where the processor has AVX-512, and float32 elsewhere: 16-bit matrix products are
      emulated there, at about an eighth of the speed. Left alone, vLLM takes float16 for models
      that were stored in it and for embedding models, and that is emulated nearly everywhere: 30
      texts/s of all-MiniLM-L6-v2 instead of 341 on a processor with AVX-512.
    """
    options: dict[str, Any] = {
        "enforce_eager": True,
        "dtype": "bfloat16" if _has_fast_bfloat16() else "float32",
    }
    if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        options["kv_cache_memory_bytes"] = min(
            _LARGEST_KV_CACHE, available_memory() // 4, _largest_use(model, arguments)
        )
    return options


def available_memory() -> int:
    """Return the bytes of memory that can be had without swapping and are promised to nobody."""
    return max(0, host_memory().available - promised_bytes())


def _largest_use(model: Path, arguments: Mapping[str, Any]) -> int:
    """Return the bytes that a full batch of sequences of full length fills, in float32."""
    try:
        config = json.loads((model / "config.json").read_text())
        heads = config["num_attention_heads"]
        head_size = config.get("head_dim") or config["hidden_size"] // heads
        kv_heads = config.get("num_key_value_heads") or heads
        length = arguments.get("max_model_len") or config["max_position_embeddings"]
        per_token = 2 * 4 * config["num_hidden_layers"] * kv_heads * head_size
    except (FileNotFoundError, KeyError):  # not a plain transformer: nothing to go by
        return _LARGEST_KV_CACHE
    sequences: int = arguments.get("max_num_seqs") or _BATCH_SIZE
    blocks_each: int = -(-length // _BLOCK) + 1
    return sequences * blocks_each * _BLOCK * int(per_token)


def _has_fast_bfloat16() -> bool:
    flags = Path("/proc/cpuinfo").read_text()
    return "avx512f" in flags or " bf16" in flags  # bf16: as ARM names it
