"""How an operator that is ``async def`` is run: what AsyncMapFunctions have as attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sage.common.core.functions import AsyncMapFunction


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_IS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "ordered": ("True or False", lambda value: isinstance(value, bool)),
    "max_in_flight": (
        "a whole number above 0, or None",
        lambda value: value is None or _is_count(value, 1),
    ),
    "timeout": ("seconds above 0, or None", lambda v: v is None or (_is_number(v) and v > 0)),
    "retries": ("a whole number, 0 or more", lambda value: _is_count(value, 0)),
    "retry_backoff": ("seconds, 0 or more", lambda value: _is_number(value) and value >= 0),
    "retry_backoff_max": ("seconds, 0 or more", lambda value: _is_number(value) and value >= 0),
}
SETTINGS = tuple(_IS)


def settings_of(function: object) -> dict[str, Any]:
    """Return the attributes of a function that say how it is run, and the others' defaults."""
    return {name: getattr(function, name, getattr(AsyncMapFunction, name)) for name in SETTINGS}


def check_settings(settings: Mapping[str, Any], operator: str) -> None:
    """Raise ValueError for a setting that does not accept its value."""
    for name, value in settings.items():
        kind, fits = _IS[name]
        if not fits(value):
            raise ValueError(f"{name} of operator {operator!r} must be {kind}, not {value!r}")
