"""How much KV cache a token takes, and how long a sequence may be, from a model's config.json."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# What does not keep a key and a value per head, layer and token: its size is not told here.
_OTHER_CACHES = (
    "kv_lora_rank",  # latent attention (MLA)
    "compress_ratios",
    "layers_block_type",  # state space layers among others
    "hybrid_override_pattern",
    "full_attention_interval",
    "linear_num_key_heads",
    "attn_layer_period",
    "state_size",
    "ssm_state_size",
    "mamba_d_state",
    "block_configs",  # layers that differ in size
    "num_kv_shared_layers",
    "cross_attention_layers",
    "rwkv_hidden_size",
)
_ENCODERS = ("mpnet", "electra")  # and all that have "bert" in their name
_CACHE_BYTES = {"float16": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1}
_KEY_LAYER = re.compile(r"(.*)\.k_proj\.")


def language_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the language model, which some models keep one level down."""
    inner = config.get("text_config")
    return {**config, **(inner if isinstance(inner, Mapping) else {})}


def kv_bytes_per_token(
    config: Mapping[str, Any],
    tensor_names: Iterable[str],
    *,
    role: str,
    cache_dtype: str,
    dtype_bytes: int,
    shards: int = 1,
    stages: int = 1,
) -> int | None:
    """Return the bytes a token takes on each device: a key and a value per layer and head.

    ``config`` is that of the language model; ``tensor_names`` are those of the weights.
    0 for an encoder, which keeps none; None where the architecture is not a plain transformer with
    full attention, or the cache's dtype is not known: no figure is better than a wrong one.
    """
    if role == "embed" and is_encoder(config):
        return 0
    if _is_unusual(config):
        return None
    layers = _first(config, "num_hidden_layers", "n_layer", "num_layers")
    heads = _first(config, "num_attention_heads", "n_head")
    hidden = _first(config, "hidden_size", "n_embd", "d_model")
    if not layers or not heads or not hidden:
        return None
    if "text_config" not in config:  # other parts of such a model have layers of their own
        seen = {match[1] for name in tensor_names if (match := _KEY_LAYER.match(name))}
        if seen and len(seen) != layers:
            return None
    kv_heads = _first(config, "num_key_value_heads", "num_kv_heads", "n_head_kv") or heads
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        kv_heads = 1  # of Falcon, whose other figure counts only in its new architecture
    head_size = _first(config, "head_dim") or hidden // heads
    each = dtype_bytes if cache_dtype == "auto" else _CACHE_BYTES.get(cache_dtype)
    if each is None:
        return None
    return 2 * each * -(-layers // stages) * max(1, kv_heads // shards) * head_size


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Whether the model reads a text all at once, as BERT does, and keeps no KV cache."""
    kind = str(config.get("model_type"))
    return ("bert" in kind or kind in _ENCODERS) and not config.get("is_decoder")


def longest_sequence(
    config: Mapping[str, Any], arguments: Mapping[str, Any], sentence_length: int | None = None
) -> int | None:
    """Return ``max_model_len`` as the engine takes it; None where it is left to the engine.

    ``sentence_length`` is the limit that a model of sentence-transformers sets itself.
    """
    asked = arguments.get("max_model_len")
    if asked is not None:
        return asked if isinstance(asked, int) and asked > 0 else None  # -1: whatever fits
    if sentence_length is not None:
        return sentence_length
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if isinstance(scaling, Mapping) and "factor" in scaling:
        kind = scaling.get("rope_type") or scaling.get("type")
        if kind not in ("llama3", "default"):
            return None  # stretched, in a way that differs from kind to kind
    return _first(config, "max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")


def _is_unusual(config: Mapping[str, Any]) -> bool:
    if any(config.get(name) for name in _OTHER_CACHES) or config.get("is_encoder_decoder"):
        return True
    if config.get("sliding_window") and config.get("use_sliding_window") is not False:
        return True
    kinds = config.get("layer_types") or ()
    return any(kind != "full_attention" for kind in kinds)


def _first(config: Mapping[str, Any], *names: str) -> int | None:
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)
