"""FunctionSpec: the picklable recipe of a function, from a class or a plain callable."""

from __future__ import annotations

import inspect
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
from sage.kernel.graph.unused_cleanup import refuse_unused_cleanup

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
        if _is_function_class(self.target):
            self._check_class(self.target)  # type: ignore[arg-type]
        if any(map(_is_async, self._called())):
            raise TypeError(
                f"{self.kind}() cannot run {self.name}, which is `async def`: it would get a "
                f"coroutine that nobody awaits. Use a plain function, or map() an AsyncMapFunction "
                f"whose submit() returns asyncio.run_coroutine_threadsafe(coroutine, loop)"
            )
        if not _is_function_class(self.target):
            self._check_arguments()

    @classmethod
    def of(
        cls, kind: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> FunctionSpec:
        """Describe what a user gave; a partial of a function class is the class with arguments."""
        if isinstance(function, partial) and _is_function_class(function.func):
            args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
            function = function.func
        return cls(kind=kind, target=function, args=args, kwargs=kwargs)

    @property
    def name(self) -> str:
        """The class's or callable's own name; a partial's is that of its function."""
        target = _without_arguments(self.target)
        return getattr(target, "__name__", None) or type(target).__name__

    def build(self) -> Any:
        """Return an instance with ``setup``, ``execute`` and ``cleanup``."""
        if _is_function_class(self.target):
            self._check_arguments()
            return self.target(*self.args, **self.kwargs)
        bound = partial(self.target, *self.args, **self.kwargs) if self._has_arguments() else None
        return CallableFunction(bound or self.target)

    def _has_arguments(self) -> bool:
        return bool(self.args or self.kwargs)

    def _called(self) -> tuple[Any, ...]:
        """Return what may be the code that runs for a record."""
        if _is_function_class(self.target):
            return (self.target.execute,)  # type: ignore[attr-defined]
        target = _without_arguments(self.target)
        return (target, type(target).__call__)

    def _check_arguments(self) -> None:
        """Raise TypeError for what cannot be called so: of a callable before the first record."""
        builds = _is_function_class(self.target)
        record = () if builds or self.kind == "source" else (None,)
        try:  # a decorator's own arguments, not those of what it wraps
            signature = inspect.signature(self.target, follow_wrapped=False)
        except (TypeError, ValueError):  # such as some functions written in C
            return
        try:
            signature.bind(*self.args, *record, **self.kwargs)
        except TypeError as error:
            plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
            call = f"{self.name}{inspect.Signature(plain)}"
            made = "builds" if builds else f"calls, with {'a' if record else 'no'} record,"
            raise TypeError(f"{self.kind}() {made} {call}: {error}") from None

    def _check_class(self, cls: type[BaseFunction]) -> None:
        refuse_unused_cleanup(cls, BaseFunction, ("close", "teardown"))
        fitting = [kind for kind, bases in BASES.items() if issubclass(cls, bases)]
        plain = not fitting and hasattr(cls, "execute")  # it is what it is used as
        if self.kind in fitting or plain:
            return
        hint = f"; use {fitting[0]}()" if fitting else "; it has no execute()"
        wanted = " or ".join(base.__name__ for base in BASES[self.kind])
        raise TypeError(f"{self.kind}() takes a {wanted}, and {self.name} is none{hint}")


def _is_function_class(target: Any) -> bool:
    return isinstance(target, type) and issubclass(target, BaseFunction)


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _without_arguments(target: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(target, partial):
        target = target.func
    return target
