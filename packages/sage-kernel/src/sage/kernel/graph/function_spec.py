"""FunctionSpec: the picklable recipe of a function, from a class or a plain callable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sage.common.core.functions import (
    AsyncMapFunction,
    BaseFunction,
    BatchFunction,
    FilterFunction,
    FlatMapFunction,
    KeyByFunction,
    MapFunction,
    SinkFunction,
    SourceFunction,
)
from sage.kernel.graph.call_check import check_call, name_of, without_arguments
from sage.kernel.graph.coroutine_settings import SETTINGS, check_settings
from sage.kernel.graph.unused_cleanup import refuse_unused_cleanup

BASES: dict[str, tuple[type[BaseFunction], ...]] = {
    "source": (SourceFunction, BatchFunction),
    "map": (MapFunction,),
    "flatmap": (FlatMapFunction,),
    "filter": (FilterFunction,),
    "keyby": (KeyByFunction,),
    "sink": (SinkFunction,),
}
_ASYNC_KINDS = ("map", "flatmap", "filter")


class CallableFunction(BaseFunction):
    """Makes a plain callable an operator's function; ``settings`` become its attributes."""

    def __init__(self, function: Callable[..., Any], settings: Mapping[str, Any]) -> None:
        self.execute = function
        for name, value in settings.items():
            setattr(self, name, value)


@dataclass(frozen=True, kw_only=True)
class FunctionSpec:
    """A function class or callable with its arguments; ``build()`` makes an instance.

    ``settings`` say how an ``async def`` is run that is no class; see coroutine_settings.
    """

    kind: str
    target: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

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
            self._check_async()
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
        settings: dict[str, Any] = {}
        if kind in _ASYNC_KINDS and any(map(_is_async, _called(function))):
            settings = {key: kwargs.pop(key) for key in SETTINGS if key in kwargs}
        return cls(kind=kind, target=function, args=args, kwargs=kwargs, settings=settings)

    @property
    def name(self) -> str:
        """The class's or callable's own name; a partial's is that of its function."""
        return name_of(self.target)

    @property
    def is_async(self) -> bool:
        """Whether what runs for a record is ``async def``."""
        return any(map(_is_async, self._called()))

    def build(self) -> Any:
        """Return an instance with ``setup``, ``execute`` and ``cleanup``."""
        if _is_function_class(self.target):
            self._check_arguments()
            return self.target(*self.args, **self.kwargs)
        bound = partial(self.target, *self.args, **self.kwargs) if self._has_arguments() else None
        return CallableFunction(bound or self.target, self.settings)

    def _has_arguments(self) -> bool:
        return bool(self.args or self.kwargs)

    def _called(self) -> tuple[Any, ...]:
        """Return what may be the code that runs for a record."""
        if _is_function_class(self.target):
            return (self.target.execute,)  # type: ignore[attr-defined]
        return _called(self.target)

    def _check_async(self) -> None:
        """Raise TypeError where a coroutine would be one that nobody awaits."""
        which = f"{self.name}, which is `async def`"
        if self.kind not in _ASYNC_KINDS:
            raise TypeError(
                f"{self.kind}() cannot run {which}: it would get a coroutine that nobody awaits. "
                f"Use a plain function; map(), flatmap() and filter() run coroutines"
            )
        if _is_function_class(self.target) and issubclass(self.target, AsyncMapFunction):  # type: ignore[arg-type]
            raise TypeError(
                f"{self.kind}() cannot run {which}: of an AsyncMapFunction it runs submit(). "
                f"Derive it from MapFunction"
            )
        if self.kind != "flatmap" and any(map(inspect.isasyncgenfunction, self._called())):
            raise TypeError(
                f"{self.kind}() cannot run {which} and yields: one record would be many. Use "
                f"flatmap()"
            )
        check_settings(self.settings, self.name)

    def _check_arguments(self) -> None:
        """Raise TypeError for what cannot be called so: of a callable before the first record."""
        builds = _is_function_class(self.target)
        record = () if builds or self.kind == "source" else (None,)
        made = "builds" if builds else f"calls, with {'a' if record else 'no'} record,"
        args = (*self.args, *record)
        others = SETTINGS if self.is_async else ()
        check_call(self.target, args, self.kwargs, f"{self.kind}() {made}", others)

    def _check_class(self, cls: type[BaseFunction]) -> None:
        refuse_unused_cleanup(cls, BaseFunction, ("close", "teardown"))
        if not isinstance(cls.keep_calls, bool):
            raise TypeError(
                f"keep_calls of {cls.__name__} must be True or False, not {cls.keep_calls!r}"
            )
        if cls.keep_calls and not self.is_async:
            raise TypeError(
                f"{cls.__name__} has keep_calls, which keeps what `await self.call(...)` returns, "
                f"and its execute() is no `async def`"
            )
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


def _called(function: Callable[..., Any]) -> tuple[Any, ...]:
    """Return what may be the code that runs when a callable is called."""
    target = without_arguments(function)
    return () if isinstance(target, type) else (target, type(target).__call__)
