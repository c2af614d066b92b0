"""What a checkpoint remembers of its pipeline, and which pipelines can have one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from functools import partial
from hashlib import sha256
from inspect import signature
from pathlib import PurePath
from typing import Any

from sage.kernel.graph import Operator

Description = list[dict[str, str]]

_LONGEST = 100  # items of a container, or letters of a text: longer ones are told by a digest


def obstacle(operators: Sequence[Operator]) -> str | None:
    """Return why a pipeline as it is run cannot have a checkpoint, None if it can.

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
    """Return what identifies a pipeline: its operators, their functions and arguments.

    What a function does is no part of it, nor is ``on_error``: a run that stopped at an error may
    go on with a mended function, or with that record skipped. Nor are ``free_arguments``, which
    change no result.
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
    described["function"] = _value(spec.target)
    free: frozenset[str] = getattr(spec.target, "free_arguments", frozenset())
    names = list(signature(spec.target).parameters) if free else []
    arguments: dict[str, Any] = {
        str(i): arg for i, arg in enumerate(spec.args) if not free.intersection(names[i : i + 1])
    }
    arguments |= {key: spec.kwargs[key] for key in sorted(spec.kwargs) if key not in free}
    return described | {f"argument {key}": _value(arg) for key, arg in arguments.items()}


def _value(value: Any) -> str:
    """Return a text of one line that is the same in every process, unlike many a repr().

    Values that differ have texts that differ, with two exceptions: functions are told by name, and
    objects that this module knows nothing of by the name of their type.
    """
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= _LONGEST else _digest(value, [repr(value)])
    if value is None or isinstance(value, bool | int | float | range):
        return repr(value)
    if isinstance(value, PurePath):
        return repr(str(value))
    if isinstance(value, list | tuple):
        return _container(value, map(_value, value), "[]")
    if isinstance(value, Mapping):
        items = (f"{_value(key)}: {_value(item)}" for key, item in value.items())
        return _container(value, items, "{}")
    if isinstance(value, set | frozenset):
        return _container(value, sorted(map(_value, value)), "{}")
    if isinstance(value, partial):
        arguments = [_value(argument) for argument in value.args]
        arguments += [f"{key}={_value(value.keywords[key])}" for key in sorted(value.keywords)]
        return f"{_value(value.func)}({', '.join(arguments)})"
    if callable(value):
        return getattr(value, "__qualname__", None) or type(value).__qualname__
    return f"a {type(value).__qualname__}"


def _container(value: Sized, items: Iterable[str], brackets: str) -> str:
    if len(value) > _LONGEST:
        return _digest(value, items)
    return brackets[0] + ", ".join(items) + brackets[1]


def _digest(value: Sized, lines: Iterable[str]) -> str:
    digest = sha256()
    for line in lines:
        digest.update(f"{line}\n".encode())
    return f"a {type(value).__name__} of length {len(value)}, SHA-256 {digest.hexdigest()[:16]}..."
