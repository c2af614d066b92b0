"""KeptCalls: keeps what a coroutine's service calls resulted in, for a run that goes on."""

from __future__ import annotations

import enum
import hashlib
import pickle
from collections.abc import Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

from sage.common.core.context import RuntimeContext, ServiceCaller
from sage.common.core.futures import hand_over

if TYPE_CHECKING:
    from sage.kernel.runtime.checkpoint.call_journal import CallJournal

POSITION: ContextVar[int | None] = ContextVar("POSITION", default=None)
"""The position in the source of the record whose coroutine calls; all before it is done when a
checkpoint says that this position is reached."""


class KeptCalls:
    """A ServiceCaller that makes no call again whose result an earlier run has kept.

    A call is known again by the record's position, the operator, the service, the method and the
    arguments. Of calls that are equal in all of these, the one that ended first is the first.

    Args:
        services: makes the calls.
        journal: keeps their results.
        operator: that of the coroutine; its log is told, once, of what cannot be kept.
    """

    def __init__(
        self, services: ServiceCaller, journal: CallJournal, operator: RuntimeContext
    ) -> None:
        self._services = services
        self._journal = journal
        self._operator = operator
        self._told = False

    def call_service(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a service's method, unless its result is known, and wait for that."""
        place = self._place(name, args, kwargs)
        found = self._found(name, place)
        if found is not None:
            return found.result()
        result = self._services.call_service(name, *args, **kwargs)
        self._keep(name, place, result)
        return result

    def call_service_async(self, name: str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a service's method, unless its result is known."""
        place = self._place(name, args, kwargs)
        found = self._found(name, place)
        if found is not None:
            return found
        call = self._services.call_service_async(name, *args, **kwargs)
        if place is None:
            return call
        kept: Future[Any] = Future()

        def keep(result: Any) -> Any:
            self._keep(name, place, result)
            return result

        hand_over(call, kept, keep)
        return kept

    def capacity(self, name: str, /) -> int | None:
        """Return how many calls the service can make use of at once, None if it does not say."""
        return self._services.capacity(name)

    def _place(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[int, bytes] | None:
        """Return by what a call is known again, None if it is not."""
        position = POSITION.get()
        if position is None:  # it is no record's
            return None
        options = {key: value for key, value in kwargs.items() if key != "timeout"}
        try:
            known_by = repr(_plain([self._operator.name, name, args, options]))
        except (TypeError, RecursionError) as error:
            self._tell(f"{error}, by which no later run knows a call of service {name!r} again")
            return None
        return position, hashlib.sha256(known_by.encode(errors="surrogatepass")).digest()

    def _found(self, name: str, place: tuple[int, bytes] | None) -> Future[Any] | None:
        kept = None if place is None else self._journal.take(*place)
        if kept is None:
            return None
        found: Future[Any] = Future()
        try:
            found.set_result(pickle.loads(kept))  # an earlier run of this pipeline wrote it
        except Exception as error:  # noqa: BLE001 - a class may have another form by now
            self._tell(f"what service {name!r} returned to an earlier run cannot be read: {error}")
            return None
        return found

    def _keep(self, name: str, place: tuple[int, bytes] | None, result: Any) -> None:
        if place is None:
            return
        try:
            kept = pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # noqa: BLE001 - pickle raises many kinds
            self._tell(f"what service {name!r} returns cannot be kept: {error}")
        else:
            self._journal.keep(*place, kept)

    def _tell(self, problem: str) -> None:
        if not self._told:
            self._told = True
            self._operator.logger.warning(
                "operator %r: %s; a run that goes on makes such calls again",
                self._operator.name,
                problem,
            )


def _plain(value: Any) -> Any:
    """Return a value whose repr() is the same in every process, and another one's for no other.

    Raises TypeError for what has no such form. Functions and classes of modules are told by name.
    """
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return "mapping", sorted(((_plain(k), _plain(v)) for k, v in value.items()), key=repr)
    if isinstance(value, set | frozenset):
        return "set", sorted(map(_plain, value), key=repr)
    if isinstance(value, PurePath):
        return "path", str(value)
    if isinstance(value, enum.Enum):
        return _name(type(value)), value.name
    if hasattr(value, "__array_interface__"):
        digest = hashlib.sha256(value.tobytes()).hexdigest()
        return "array", str(value.dtype), list(value.shape), digest
    if is_dataclass(value) and not isinstance(value, type):
        return _name(type(value)), [_plain(getattr(value, each.name)) for each in fields(value)]
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        name = _name(value)
        if "<" not in name:  # else others may have this name too
            return "name", name
    raise TypeError(f"an argument is a {_name(type(value))}")


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
