"""check_call: finds that something cannot be called so before it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from sage.common.core.errors import near_name


def check_call(
    target: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    doing: str,
    others: Iterable[str] = (),
) -> None:
    """Raise TypeError for arguments that do not fit; ``doing`` begins its message.

    ``others`` are names besides, which a misspelt one may have meant.
    """
    try:  # a decorator's own arguments, not those of what it wraps
        signature = inspect.signature(target, follow_wrapped=False)
    except (TypeError, ValueError):  # such as some functions written in C
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        call = f"{name_of(target)}{inspect.Signature(plain)}"
        known = {*signature.parameters, *others}
        unknown = next((name for name in kwargs if name not in known), "")
        near = near_name(unknown, known)
        meant = f"; did you mean {near!r} by {unknown!r}?" if near else ""
        raise TypeError(f"{doing} {call}: {error}{meant}") from None


def name_of(target: Callable[..., Any]) -> str:
    """Return a class's or callable's own name; a partial's is that of its function."""
    target = without_arguments(target)
    return getattr(target, "__name__", None) or type(target).__name__


def without_arguments(target: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of a partial, or of a partial of a partial."""
    while isinstance(target, partial):
        target = target.func
    return target
