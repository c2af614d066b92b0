"""What services say that a run's results follow from, and how that may change between two runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Identities = Mapping[str, Mapping[str, Any]]
"""What each service says its results follow from, by its name."""


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
