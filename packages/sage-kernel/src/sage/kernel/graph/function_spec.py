"""FunctionSpec: the picklable recipe of a function, from a class or a plain callable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sage.common.core.functions import (
    BaseFunction,
    BatchFunction,
    FilterFunction,
    FlatMapFunction,
    KeyByFunction,
    MapFunction,
    SinkFunction,
    SourceFunction,
)

BASES: dict[str, tuple[type[BaseFunction], ...]] = {
    "source": (SourceFunction, BatchFunction),
    "map": (MapFunction,),
    "flatmap": (FlatMapFunction,),
    "filter": (FilterFunction,),
    "keyby": (KeyByFunction,),
    "sink": (SinkFunction,),
}


class CallableFunction(BaseFunction):
    """Makes a plain callable an operator's function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.execute = function


@dataclass(frozen=True, kw_only=True)
class FunctionSpec:
    """A function class or callable with its arguments; ``build()`` makes an instance."""

    kind: str
    target: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.target, BaseFunction):
            raise TypeError(
                f"{self.kind}() takes the class {type(self.target).__name__} and its arguments, "
                f"not an instance: each replica needs one of its own"
            )
        if not callable(self.target):
            raise TypeError(
                f"{self.kind}() takes a function class or a callable, not {self.target!r}"
            )
        if self._is_function_class() and not issubclass(self.target, BASES[self.kind]):  # type: ignore[arg-type]
            raise TypeError(self._wrong_class())

    @property
    def name(self) -> str:
        """The class's or callable's own name."""
        return getattr(self.target, "__name__", None) or type(self.target).__name__

    def build(self) -> Any:
        """Return an instance with ``setup``, ``execute`` and ``cleanup``."""
        if self._is_function_class():
            return self.target(*self.args, **self.kwargs)
        bound = partial(self.target, *self.args, **self.kwargs) if self._has_arguments() else None
        return CallableFunction(bound or self.target)

    def _has_arguments(self) -> bool:
        return bool(self.args or self.kwargs)

    def _is_function_class(self) -> bool:
        return isinstance(self.target, type) and issubclass(self.target, BaseFunction)

    def _wrong_class(self) -> str:
        fitting = [kind for kind, bases in BASES.items() if issubclass(self.target, bases)]  # type: ignore[arg-type]
        hint = f"; use {fitting[0]}()" if fitting else ""
        wanted = " or ".join(base.__name__ for base in BASES[self.kind])
        return f"{self.kind}() takes a {wanted}, and {self.name} is none{hint}"
