"""Options of options: ``NAME=VALUE``, for what has no flag of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer


def named_values(
    options: Sequence[str], beside: Mapping[str, Any], *, flag: str, example: str
) -> dict[str, Any]:
    """Return what is given as NAME=VALUE, and ``beside``; raises BadParameter.

    A value is JSON, or what Python has for it; any other is a text.
    """
    given = dict(beside)
    for option in options:
        name, equals, value = option.partition("=")
        name = name.strip().replace("-", "_")
        if not (name and equals):
            raise typer.BadParameter(
                f"{option!r} is no NAME=VALUE, such as {example}", param_hint=flag
            )
        if name in given:
            raise typer.BadParameter(f"{name} is given twice", param_hint=flag)
        given[name] = _value(value)
    return given


def _value(text: str) -> Any:
    for written in (text, {"True": "true", "False": "false", "None": "null"}.get(text, "")):
        try:
            return json.loads(written)
        except ValueError:
            pass
    return text
