"""The options that ``generate`` takes: vLLM's sampling parameters by their names, and our own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.requests.chat.chat_options import (
    CHAT_OPTIONS,
    TEMPLATE_OPTIONS_ALIAS,
)
from sage.common.components.sage_vllm.requests.chat.tools import is_tools
from sage.common.components.sage_vllm.requests.chat.typed_schema import is_schema
from sage.common.components.sage_vllm.requests.unicode import check_unicode
from sage.common.core.errors import nearest

_TYPES: dict[str, tuple[str, ...]] = {
    "a whole number": (
        "logprobs",
        "max_tokens",
        "min_tokens",
        "n",
        "priority",
        "prompt_logprobs",
        "seed",
        "thinking_token_budget",
        "top_k",
    ),
    "seconds above 0": ("deadline",),
    "a number": (
        "frequency_penalty",
        "min_p",
        "presence_penalty",
        "repetition_penalty",
        "temperature",
        "top_p",
    ),
    "True or False": (
        "continue_final_message",
        "ignore_eos",
        "include_stop_str_in_output",
        "json_object",
        "skip_reading_prefix_cache",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "watermarking",
    ),
    "a string": ("chat_template", "grammar", "lora", "model", "regex"),
    "a string or a list of strings": ("stop",),
    "a list of strings": ("bad_words",),
    "a list of strings, at least one": ("choice",),
    "a list of whole numbers": (
        "allowed_token_ids",
        "logprob_token_ids",
        "stop_token_ids",
        "trace_decode_token_ids",
    ),
    "a dict with strings as keys": ("extra_args", "template_options", TEMPLATE_OPTIONS_ALIAS),
    "a dict of token ids and numbers": ("logit_bias",),
    "a dict of whole numbers such as {'max_pattern_size': 20, 'min_count': 4}": (
        "repetition_detection",
    ),
    "a JSON schema as a dict, a pydantic class or a dataclass": ("json_schema",),
    "True, False, or a number of tokens": ("thinking",),
    "a list of functions or of their schemas": ("tools",),
    "auto, none, required or the name of a tool": ("tool_choice",),
    "a folder, or a dict with a folder": ("cache",),
    "a dict, or its JSON as a string": ("structural_tag",),
}
_TYPE_OF = {name: kind for kind, names in _TYPES.items() for name in names}
_LARGEST = 2**63 - 1  # what vLLM's processes can tell each other

STRUCTURE_OPTIONS = {
    "json_schema": "json",
    "choice": "choice",
    "regex": "regex",
    "grammar": "grammar",
    "json_object": "json_object",
    "structural_tag": "structural_tag",
}
"""What the text must be, at most one of them, and vLLM's name of it: ``json_schema`` a JSON schema
as a dict, ``choice`` a list of strings, ``regex`` and ``grammar`` (EBNF) strings, ``json_object``
True for any object, ``structural_tag`` a dict, or its JSON: which form begins and ends where."""

REQUEST_OPTIONS = CHAT_OPTIONS | {
    "cache", "chat_template", "deadline", "lora", "model", "priority",
}  # fmt: skip
"""CHAT_OPTIONS, ``cache`` (a folder that keeps answers; of whole calls), ``chat_template`` (the
name of one of the model's, or a template), ``deadline`` (seconds, then the text so far is the
result), ``lora`` (an adapter of the registry), ``model`` (one of the service's models),
``priority`` (a whole number, lower goes first, 0 unless given)."""

SAMPLING_OPTIONS = frozenset(_TYPE_OF)

INSTEAD = {
    "detokenize": "a generation is a text; logprobs=0 has the ids of its tokens too",
    "flat_logprobs": "it changes a form inside vLLM; logprobs are the same with it",
    "output_kind": "generate() has the whole text, stream() its pieces",
    "prompt_logprob_start": "prompt_logprobs has all of a prompt's tokens",
    "prompt_logprob_token_ids": "prompt_logprobs=-1 has the prompt's log-probabilities of all ids",
    "routed_experts_prompt_start": "results do not have the experts that tokens were routed to",
    "stream_interval": "stream() yields a piece for each step",
    "structured_outputs": "use json_schema, json_object, choice, regex, grammar or structural_tag",
}
"""Parameters of vLLM's that are no options here, and what to do instead."""

DEFAULT_MAX_TOKENS = 512
"""Used where neither the call, nor the service, nor the model names a limit: vLLM's own default
of 16 tokens cuts every answer short."""


def prescribes(options: Mapping[str, Any], *names: str) -> bool:
    """Whether a text must have one of these forms; ``json_object=False`` is none."""
    return any(options.get(name) not in (None, False) for name in names)


def makes_json(options: Mapping[str, Any]) -> bool:
    """Whether a text is JSON, which the result has ``parsed``."""
    return prescribes(options, "json_schema", "json_object")


def check_sampling_options(
    options: Mapping[str, Any], where: str, others: Iterable[str] = ()
) -> None:
    """Raise InvalidOptionError for an option that does not exist or does not accept its value.

    ``others`` are names that ``where`` knows besides, which a misspelt option may have meant.
    A value of a wrong type has to be found here: in vLLM it may take the whole engine down.
    """
    for name, value in options.items():
        if name not in _TYPE_OF:
            raise InvalidOptionError(
                name,
                value,
                f"unknown sampling option {name!r} in {where}",
                hint=INSTEAD.get(name) or nearest(str(name), sorted({*SAMPLING_OPTIONS, *others})),
            )
        if value is not None and not _IS[kind := _TYPE_OF[name]](value):
            problem = f"{name} in {where} must be {kind}, not {value!r}"
            raise InvalidOptionError(name, value, problem)
        try:
            check_unicode(value, f"{name} in {where}")
        except ValueError as error:
            raise InvalidOptionError(name, value, str(error)) from error
    if len(options.keys() & STRUCTURE_OPTIONS.keys()) < 2:  # nearly all calls
        return
    structures = [name for name in STRUCTURE_OPTIONS if prescribes(options, name)]
    if len(structures) > 1:
        problem = f"{' and '.join(structures)} in {where}: a text can follow only one"
        raise InvalidOptionError(structures[-1], options[structures[-1]], problem)


def check_own_options(options: Mapping[str, Any], where: str) -> None:
    """Raise InvalidOptionError for what one prompt, or one record, cannot have of its own.

    A prompt may come from anywhere, and a cache is a folder to write into.
    """
    if "cache" in options:
        problem = f"cache in {where}: answers are kept for whole calls, operators and services"
        hint = "give it to one of these"
        raise InvalidOptionError("cache", options["cache"], problem, hint=hint)


def check_on_error(on_error: object) -> None:
    """Raise InvalidOptionError for an ``on_error`` that is neither "raise" nor "return"."""
    if on_error not in ("raise", "return"):
        problem = f"unknown on_error {on_error!r}"
        raise InvalidOptionError("on_error", on_error, problem, hint="valid: raise, return")


def check_embedding_options(
    *, normalize: object, dimensions: object, truncate: object, prompt_name: object
) -> None:
    """Raise InvalidOptionError for an option of ``embed`` of a wrong type, for the same reason."""
    for name, value in (("normalize", normalize), ("truncate", truncate)):
        if not isinstance(value, bool):
            raise InvalidOptionError(name, value, f"{name} must be True or False, not {value!r}")
    if dimensions is not None and not _is_positive_integer(dimensions):
        problem = f"dimensions must be a whole number above 0, not {dimensions!r}"
        raise InvalidOptionError("dimensions", dimensions, problem)
    if prompt_name is not None and not _is_string(prompt_name):
        problem = f"prompt_name must be the name of one of the model's prompts, not {prompt_name!r}"
        raise InvalidOptionError("prompt_name", prompt_name, problem)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_positive_integer(value: Any) -> bool:
    return _is_integer(value) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_integer(value)


def _are(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(check, value))


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


_IS: dict[str, Callable[[Any], bool]] = {
    "a whole number": _is_integer,
    "seconds above 0": lambda value: _is_number(value) and value > 0,
    "a number": _is_number,
    "True or False": lambda value: isinstance(value, bool),
    "a string": _is_string,
    "a string or a list of strings": lambda value: _is_string(value) or _are(_is_string)(value),
    "a list of strings": _are(_is_string),
    "a list of strings, at least one": lambda value: _are(_is_string)(value) and len(value) > 0,
    "a list of whole numbers": _are(_is_integer),
    "a dict with strings as keys": lambda value: _is_dict(value) and all(map(_is_string, value)),
    "a dict of token ids and numbers": lambda value: (
        _is_dict(value) and all(map(_is_integer, value)) and all(map(_is_number, value.values()))
    ),
    "a JSON schema as a dict, a pydantic class or a dataclass": is_schema,
    "True, False, or a number of tokens": lambda value: (
        isinstance(value, bool) or (_is_integer(value) and value >= 0)
    ),
    "a list of functions or of their schemas": is_tools,
    "auto, none, required or the name of a tool": lambda value: (
        _is_string(value) or _is_dict(value)
    ),
    "a folder, or a dict with a folder": lambda value: isinstance(
        value, str | os.PathLike | Mapping
    ),
    "a dict of whole numbers such as {'max_pattern_size': 20, 'min_count': 4}": lambda value: (
        _is_dict(value) and all(map(_is_string, value)) and all(map(_is_integer, value.values()))
    ),
    "a dict, or its JSON as a string": lambda value: _is_dict(value) or _is_string(value),
}
