"""What a checkpoint remembers of its pipeline, and which pipelines can have one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from sage.kernel.graph import FunctionSpec, Operator

Description = list[dict[str, str]]

_LONGEST = 100  # items of a container, or letters of a text, that are compared one by one


def obstacle(operators: Sequence[Operator]) -> str | None:
    """Return why a pipeline cannot have a checkpoint, None if it can.

    A position in the source says what is done only where records stay in order and every record
    has one way to go.
    """
    sources = [operator.name for operator in operators if operator.kind == "source"]
    if len(sources) > 1:
        return f"the pipeline has {len(sources)} sources ({', '.join(sources)})"
    for operator in operators:
        consumers = [other.name for other in operators if operator.id in other.inputs]
        if len(consumers) > 1:
            return f"the stream of {operator.name!r} goes to {' and to '.join(consumers)}"
        if operator.parallelism > 1:
            return f"{operator.name!r} has parallelism={operator.parallelism}"
        if operator.kind in ("keyby", "union"):
            return f"the pipeline has a {operator.kind}"
    return None


def describe(operators: Sequence[Operator]) -> Description:
    """Return what makes a pipeline the same one: its operators, their functions and arguments.

    Not what a function does, nor ``on_error``: a run that stopped at an error may go on with a
    mended function, or with that record skipped.
    """
    return [_describe(operator) for operator in operators]


def difference(before: Description, now: Description) -> str:
    """Say in words where two descriptions first differ; empty if they do not."""
    for index, (old, new) in enumerate(zip(before, now, strict=False)):
        for key in {**old, **new}:
            if old.get(key) != new.get(key):
                where = f"operator {index} ({new['name']})"
                return f"{where} has {key} {new.get(key, '(none)')}, not {old.get(key, '(none)')}"
    if len(before) != len(now):
        names = ", ".join(operator["name"] for operator in max(before, now, key=len))
        return f"it has {len(now)} operators, not {len(before)}; the longer one is {names}"
    return ""


def _describe(operator: Operator) -> dict[str, str]:
    described = {"kind": operator.kind, "name": operator.name}
    spec = operator.function
    if spec is None:
        return described
    described["function"] = _name(spec.target)
    arguments: dict[str, Any] = {str(i): arg for i, arg in enumerate(spec.args)}
    arguments |= {key: spec.kwargs[key] for key in sorted(spec.kwargs)}
    return described | {f"argument {key}": _value(arg) for key, arg in arguments.items()}


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def _value(value: Any) -> str:
    """Return a text that is the same in every process, unlike many a repr()."""
    if isinstance(value, str | bytes) and len(value) <= _LONGEST:
        return repr(value)
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, PurePath):
        return repr(str(value))
    if isinstance(value, Mapping | list | tuple) and len(value) <= _LONGEST:
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{_value(k)}: {_value(v)}" for k, v in value.items()) + "}"
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str | bytes | Mapping | list | tuple | range | set | frozenset):
        return f"a {type(value).__name__} of length {len(value)}"
    if isinstance(value, FunctionSpec | type) or callable(value):
        return _name(value)
    return f"a {type(value).__qualname__}"
