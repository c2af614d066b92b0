"""Texts of the form that options prescribe: checked, and made where a text has another."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from sage.common.components.sage_vllm.requests.sampling_options import STRUCTURE_OPTIONS
from sage.common.components.sage_vllm.testing.regex_example import regex_example
from sage.common.components.sage_vllm.testing.schema_example import SchemaExample
from sage.common.core.errors import PackageNotInstalledError

_UNKNOWN = ("grammar", "structural_tag")  # forms of which nothing is known here
_WORDS = 5  # of the prompt, that the strings of an object say


def misfit(text: str, options: Mapping[str, Any]) -> str | None:
    """Return why the text is none that the options allow, None where it is one.

    Of ``grammar`` and ``structural_tag`` nothing is known here: every text passes. Raises as
    ``bound_text``.
    """
    if (choice := options.get("choice")) is not None:
        return None if text in choice else f"it is none of choice={choice!r}"
    if (pattern := options.get("regex")) is not None:
        try:
            return None if re.fullmatch(pattern, text) else f"regex={pattern!r} does not match it"
        except re.error as error:
            raise ValueError(f"regex={pattern!r} is not valid: {error}") from error
    if (schema := _schema_of(options)) is not None:
        return _schema_misfit(text, schema)
    return None


def bound_text(text: str, options: Mapping[str, Any]) -> str:
    """Return the text itself where it is one that the options allow, else one that they do.

    Raises:
        ValueError: the options are not valid, or no text can be made for them; it says why.
        PackageNotInstalledError: a package of ``isage-common[testing]`` is missing.
    """
    for name in _UNKNOWN:
        if options.get(name) is not None:
            raise ValueError(f"EchoEngine makes no text of a {name}; give it one by answers=")
    if misfit(text, options) is None:
        return text
    try:
        made = _example(text, options)
        why = misfit(made, options)
    except ValueError as error:
        why = str(error)
    if why is None:
        return made
    bound = {name: options[name] for name in STRUCTURE_OPTIONS if name in options}
    raise ValueError(f"EchoEngine finds no text for {bound} ({why}); give it one by answers=")


def _example(text: str, options: Mapping[str, Any]) -> str:
    if (choice := options.get("choice")) is not None:
        return str(next(iter(choice), ""))
    if (pattern := options.get("regex")) is not None:
        return regex_example(pattern)
    words = " ".join(text.split()[-_WORDS:])
    value = SchemaExample(_schema_of(options) or {}, words).make()
    return json.dumps(value, ensure_ascii=False)


def _schema_of(options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    schema: Mapping[str, Any] | None = options.get("json_schema")
    return {"type": "object"} if schema is None and options.get("json_object") else schema


def _schema_misfit(text: str, schema: Mapping[str, Any]) -> str | None:
    try:
        from jsonschema import Draft202012Validator, SchemaError
        from referencing.exceptions import Unresolvable
    except ImportError as error:
        extra = "isage-common[testing]"
        raise PackageNotInstalledError("jsonschema", extra, "for json_schema") from error
    try:
        value = json.loads(text, parse_constant=_no_json)
    except ValueError:
        return "it is no JSON"
    try:
        Draft202012Validator.check_schema(schema)
        for misfit in Draft202012Validator(schema).iter_errors(value):
            return f"by its json_schema, {misfit.message}"
    except SchemaError as error:
        raise ValueError(f"json_schema is not valid: {error.message}") from error
    except Unresolvable as error:
        raise ValueError(f"json_schema is not valid: {error}") from error
    return None


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
