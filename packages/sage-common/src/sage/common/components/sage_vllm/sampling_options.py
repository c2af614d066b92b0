"""The sampling options that ``generate`` takes, by vLLM's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.common.core.errors import nearest

SAMPLING_OPTIONS = frozenset(
    {
        "allowed_token_ids",
        "bad_words",
        "frequency_penalty",
        "ignore_eos",
        "include_stop_str_in_output",
        "logit_bias",
        "max_tokens",
        "min_p",
        "min_tokens",
        "n",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop",
        "stop_token_ids",
        "temperature",
        "top_k",
        "top_p",
    }
)

DEFAULT_MAX_TOKENS = 512
"""Used where neither the call, nor the service, nor the model names a limit: vLLM's own default
of 16 tokens cuts every answer short."""


def check_sampling_options(options: Mapping[str, Any], where: str) -> None:
    """Raise ValueError for an option that does not exist, naming the nearest one."""
    for name in options:
        if name not in SAMPLING_OPTIONS:
            raise ValueError(
                f"unknown sampling option {name!r} in {where}; "
                f"{nearest(str(name), sorted(SAMPLING_OPTIONS))}"
            )
