"""KVCache: how much memory a sequence takes for its keys and values, from a model's config.json."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Role

# Architectures that keep more than a key and a value per head, layer and token: unknown here.
_OTHER_CACHES = (
    "compress_ratios",
    "layers_block_type",  # state space layers among others
    "hybrid_override_pattern",
    "full_attention_interval",
    "linear_num_key_heads",
    "attn_layer_period",
    "attention_chunk_size",
    "state_size",
    "ssm_state_size",
    "mamba_d_state",
    "block_configs",  # layers that differ in size
    "num_kv_shared_layers",
    "cross_attention_layers",
    "rwkv_hidden_size",
    "index_topk",  # an index beside the keys
    "global_head_dim",  # layers that differ in size
)
_LATENT = ("deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite")  # MLA: one latent per token
_ENCODERS = ("mpnet", "electra")  # and all that have "bert" in their name, or "roberta"
_CACHE_BYTES = {"float16": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1}
_KEY_LAYER = re.compile(r"(.*)\.k_proj\.")
_EVEN = 1.5  # groups of layers up to this much apart are filled up to the larger, as by vLLM


@dataclass(frozen=True, kw_only=True)
class KVCache:
    """How vLLM keeps keys and values: in blocks of tokens, for groups of equally many layers.

    - ``block_size``: the tokens of a block.
    - ``block_bytes``: what a block takes, of one group; 0 for an encoder, which keeps none.
    - ``full``: how many groups keep all tokens of a sequence.
    - ``windows``: for each other group, how many tokens it looks back.
    - ``in_flight``: the tokens that steps work on at once, which a window keeps besides.
    """

    block_size: int
    block_bytes: int
    full: int = 1
    windows: tuple[int, ...] = ()
    in_flight: int = 0

    @property
    def token_bytes(self) -> int:
        """What one more token of a long sequence takes."""
        return self.full * self.block_bytes // self.block_size

    def bytes_for(self, tokens: int) -> int:
        """Return what one sequence of this length takes."""
        blocks = self.full * -(-tokens // self.block_size)
        for window in self.windows:  # one more block, as a window may begin within one
            kept = min(window - 1 + self.in_flight, tokens)
            blocks += -(-kept // self.block_size) + 1
        return blocks * self.block_bytes

    def pool_bytes(self, tokens: int) -> int:
        """Return the least size of a cache for a sequence: vLLM keeps a block of it to itself."""
        return self.bytes_for(tokens) + self.block_bytes

    def longest_within(self, pool_bytes: int, at_most: int) -> int:
        """Return the longest sequence, in whole blocks, that a cache of this size holds.

        ``at_most`` tokens, whole blocks or not, are returned where they fit.
        """
        if self.pool_bytes(at_most) <= pool_bytes:
            return at_most
        low, high = 0, at_most // self.block_size
        while low < high:
            middle = (low + high + 1) // 2
            if self.pool_bytes(middle * self.block_size) <= pool_bytes:
                low = middle
            else:
                high = middle - 1
        return low * self.block_size


def kv_cache(
    config: Mapping[str, Any],
    tensor_names: Iterable[str],
    *,
    role: Role,
    cache_dtype: str,
    dtype_bytes: int,
    block_size: int,
    in_flight: int = 0,
    shards: int = 1,
    stages: int = 1,
) -> KVCache | None:
    """Return how a model's keys and values are kept on each device.

    ``config`` is that of the language model; ``tensor_names`` are those of the weights. None where
    layers keep something else than keys and values, or the cache's dtype is not known: no figure
    is better than a wrong one.
    """
    if role is not Role.GENERATE and is_encoder(config):
        return KVCache(block_size=block_size, block_bytes=0)
    each = dtype_bytes if cache_dtype == "auto" else _CACHE_BYTES.get(cache_dtype)
    windows = _windows(config)
    if each is None or windows is None or _keeps_something_else(config):
        return None
    numbers = _token_numbers(config, shards)
    if numbers is None or not _all_layers_have_keys(config, tensor_names, len(windows)):
        return None
    counts = Counter(windows[: -(-len(windows) // stages)])
    group = _group_size(list(counts.values()))
    groups = {window: -(-layers // group) for window, layers in counts.items()}
    full = groups.pop(None, 0)
    return KVCache(
        block_size=block_size,
        block_bytes=block_size * group * numbers * each,
        full=full,
        windows=tuple(w for w, many in groups.items() if w for _ in range(many)),
        in_flight=in_flight,
    )


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Whether the model reads a text all at once, as BERT does, and keeps no KV cache."""
    kind = str(config.get("model_type"))
    encodes = "bert" in kind or "roberta" in kind or kind in _ENCODERS
    return encodes and not config.get("is_decoder")


def _token_numbers(config: Mapping[str, Any], shards: int) -> int | None:
    """Return how many numbers a layer keeps of a token."""
    if config.get("kv_lora_rank"):
        latent, rotated = _first(config, "kv_lora_rank"), _first(config, "qk_rope_head_dim")
        if config.get("model_type") not in _LATENT or not latent or not rotated:
            return None
        return latent + rotated  # the same on each device, for all heads
    heads = _first(config, "num_attention_heads", "n_head", "num_heads")
    hidden = _first(config, "hidden_size", "n_embd", "d_model")
    if not heads or not hidden:
        return None
    head_size = _first(config, "head_dim") or hidden // heads
    return 2 * max(1, _kv_heads(config, heads) // shards) * head_size


def _kv_heads(config: Mapping[str, Any], heads: int) -> int:
    if config.get("model_type") in ("falcon", "RefinedWeb", "RefinedWebModel"):
        if config.get("new_decoder_architecture"):
            return _first(config, "num_kv_heads", "n_head_kv") or heads
        return 1 if config.get("multi_query") else heads
    if config.get("multi_query"):  # as GPT-BigCode's
        return 1
    names = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
    return _first(config, *names) or heads


def _windows(config: Mapping[str, Any]) -> list[int | None] | None:
    """Return how far each layer looks back, None for all tokens; None if that cannot be told."""
    layers = _first(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    if not layers:
        return None
    window = _first(config, "sliding_window")
    if config.get("use_sliding_window") is False:
        window = None
    kinds = config.get("layer_types")
    if not kinds:
        return [window] * layers
    if len(kinds) != layers or not {*kinds} <= {"full_attention", "sliding_attention"}:
        return None
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _keeps_something_else(config: Mapping[str, Any]) -> bool:
    return any(config.get(name) for name in _OTHER_CACHES) or bool(config.get("is_encoder_decoder"))


def _all_layers_have_keys(config: Mapping[str, Any], names: Iterable[str], layers: int) -> bool:
    if "text_config" in config:  # other parts of such a model have layers of their own
        return True
    seen = {match[1] for name in names if (match := _KEY_LAYER.match(name))}
    return not seen or len(seen) == layers


def _group_size(layers: list[int]) -> int:
    """Return the layers of a group: as many as the rarest kind, or of nearly as many the most."""
    least, most = min(layers), max(layers)
    return most if most < least * _EVEN else least


def _first(config: Mapping[str, Any], *names: str) -> int | None:
    values = (config.get(name) for name in names)
    return next(
        (v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), None
    )
