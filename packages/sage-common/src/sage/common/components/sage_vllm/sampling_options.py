"""The options that ``generate`` takes: vLLM's sampling parameters by their names, and our own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.common.core.errors import nearest

_VLLM_OPTIONS = frozenset(
    {
        "allowed_token_ids",
        "bad_words",
        "extra_args",
        "frequency_penalty",
        "ignore_eos",
        "include_stop_str_in_output",
        "logit_bias",
        "logprobs",
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

STRUCTURE_OPTIONS = {
    "json_schema": "json",
    "choice": "choice",
    "regex": "regex",
    "grammar": "grammar",
}
"""What the text must be, at most one of them, and vLLM's name of it: ``json_schema`` a JSON schema
as a dict, ``choice`` a list of strings, ``regex`` and ``grammar`` (EBNF) strings."""

REQUEST_OPTIONS = frozenset({"deadline", "lora", "priority"})
"""``deadline`` (seconds, then the text so far is the result), ``lora`` (an adapter of the
registry), ``priority`` (a whole number, lower goes first, 0 unless given)."""

SAMPLING_OPTIONS = _VLLM_OPTIONS | STRUCTURE_OPTIONS.keys() | REQUEST_OPTIONS

DEFAULT_MAX_TOKENS = 512
"""Used where neither the call, nor the service, nor the model names a limit: vLLM's own default
of 16 tokens cuts every answer short."""


def check_sampling_options(options: Mapping[str, Any], where: str) -> None:
    """Raise ValueError for an option that does not exist or has no sense, naming what would."""
    for name in options:
        if name not in SAMPLING_OPTIONS:
            raise ValueError(
                f"unknown sampling option {name!r} in {where}; "
                f"{nearest(str(name), sorted(SAMPLING_OPTIONS))}"
            )
    structures = [name for name in STRUCTURE_OPTIONS if options.get(name) is not None]
    if len(structures) > 1:
        raise ValueError(f"{' and '.join(structures)} in {where}: a text can follow only one")
    schema = options.get("json_schema")
    if schema is not None and not isinstance(schema, Mapping):
        raise ValueError(f"json_schema in {where} must be a JSON schema as a dict, not {schema!r}")
    deadline = options.get("deadline")
    if deadline is not None and not (_is_number(deadline) and deadline > 0):
        raise ValueError(f"deadline in {where} must be seconds above 0, not {deadline!r}")
    priority = options.get("priority")
    if priority is not None and (not isinstance(priority, int) or isinstance(priority, bool)):
        raise ValueError(f"priority in {where} must be a whole number, not {priority!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
