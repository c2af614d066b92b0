"""What the results of a run follow from beside its pipeline: its input, services and outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sage.kernel.graph import FunctionSpec, Operator
from sage.kernel.runtime.checkpoint.durable_sink import DurableSink
from sage.kernel.runtime.checkpoint.fingerprinted_input import FingerprintedInput, InputChange

Identities = Mapping[str, Mapping[str, Any]]
"""What each service says its results follow from, by its name."""


def input_fingerprint(operators: Sequence[Operator]) -> Any:
    """Return the fingerprint of the source's input, None if the source knows none."""
    source = _fingerprinted_source(operators)
    return None if source is None else source.input_fingerprint()


def input_change(operators: Sequence[Operator], before: Any) -> InputChange | None:
    """Return what became of the input since a fingerprint was taken; None if it is the same."""
    source = None if before is None else _fingerprinted_source(operators)
    return None if source is None else source.input_change(before)


def output_problem(operators: Sequence[Operator]) -> str | None:
    """Return what is wrong with an output of a run that is complete; None if all are there."""
    for operator in operators:
        if operator.kind == "sink" and (spec := _made_by(operator.function, DurableSink)):
            problem: str | None = spec.build().output_problem()
            if problem is not None:
                return problem
    return None


def plain(identities: Identities) -> dict[str, dict[str, Any]]:
    """Return identities as JSON gives them back, so that they can be compared."""
    text: dict[str, dict[str, Any]] = json.loads(json.dumps(identities, default=str))
    return text


def services_difference(before: Identities, now: Identities) -> str:
    """Say in words how a service differs from what it was; empty if none does.

    A value that is not known yet, None, differs from none.
    """
    for name, identity in before.items():
        if name not in now:
            return f"service {name!r} is not there"
        for what in {**identity, **now[name]}:
            values = identity.get(what), now[name].get(what)
            for inner, old, new in () if None in values else _differences(what, *values):
                return f"service {name!r} has {inner} {new!r}, not {old!r}"
    return ""


def merged(before: Identities, now: Identities) -> dict[str, dict[str, Any]]:
    """Return the identities that are known by now, of services that do not differ."""
    known = {name: dict(identity) for name, identity in now.items()}
    for name, identity in before.items():
        known[name] |= {what: value for what, value in identity.items() if value is not None}
    return known


def _differences(what: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            yield from _differences(f"{what} {key}", old.get(key), new.get(key))
    elif old != new:
        yield what, old, new


def _fingerprinted_source(operators: Sequence[Operator]) -> FingerprintedInput | None:
    (source,) = (operator for operator in operators if operator.kind == "source")
    spec = _made_by(source.function, FingerprintedInput)
    built: FingerprintedInput | None = spec.build() if spec else None
    return built


def _made_by(spec: FunctionSpec | None, base: type) -> FunctionSpec | None:
    """Return a recipe if it makes instances of a class; none is made to find that out."""
    is_one = spec is not None and isinstance(spec.target, type) and issubclass(spec.target, base)
    return spec if is_one else None
