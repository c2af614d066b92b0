"""Values and errors as bytes, and back: what goes to another process and comes from there.

All of it is pickled here, so that a cluster carries bytes alone and no error of ours is wrapped in
one of its own. A value that cannot be pickled is the error of the call that it belongs to.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from sage.kernel.runtime.annotate import annotate
from sage.kernel.runtime.cluster.errors import RemoteError


class RemoteTraceback(Exception):  # noqa: N818 - it is what it says, and no error
    """The cause of an error that was raised in another process: its traceback there, as a text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def to_bytes(value: Any) -> bytes:
    """Return a value as bytes; raises what pickling it raises.

    Functions and classes of the program's main module go by their code, others by their names.
    """
    try:
        data = pickle.dumps(value, 5)
    except Exception:  # noqa: BLE001 - such as a lambda: the other way says what is wrong, if it is
        return _by_code(value)
    # The other process has another main module. The name may also be in a text, which does no harm.
    return _by_code(value) if b"__main__" in data else data


def from_bytes(data: bytes) -> Any:
    """Return the value that ``to_bytes`` was given."""
    return pickle.loads(data)


def outcome_of(future: Future[Any], what: str) -> bytes:
    """Return how a call ended as bytes; ``what`` names the call for a result that cannot go."""
    error: BaseException | None = future.exception()
    if error is None:
        try:
            return to_bytes((True, future.result()))
        except Exception as unsendable:  # noqa: BLE001 - it is the call's
            annotate(unsendable, f"the result of {what} could not be sent from its process")
            error = unsendable
    return error_outcome(error)


def error_outcome(error: BaseException, *, exits: bool = False) -> bytes:
    """Return an error as the outcome of a call: with type, attributes, notes and traceback.

    What ends a program, such as SystemExit, arrives as a RemoteError, so that it does not end who
    hears of it; with ``exits`` it arrives as it is, for whoever has it end the run.
    """
    text = "".join(traceback.format_exception(error))
    goes = exits or isinstance(error, Exception)
    data = _error_bytes(error) if goes else b""
    return to_bytes((False, (data, _said(error), _notes(error), text)))


def _said(error: BaseException) -> tuple[str, str, bool]:
    """Return what a RemoteError says of an error: its type, its text, whether to try again."""
    kind = type(error)
    try:
        words = str(error)
    except Exception as unsaid:  # noqa: BLE001 - the class is a user's
        words = f"its text cannot be made: {type(unsaid).__name__}"
    retryable = bool(getattr(error, "retryable", False))
    return f"{kind.__module__}.{kind.__qualname__}", words, retryable


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def _error_bytes(error: BaseException) -> bytes:
    """Return an error as bytes; none if it cannot be brought over.

    Of a group those members that can be are, each with its type.
    """
    for way in (error, _Made(_put_together, type(error), error.args, vars(error))):
        with suppress(Exception):
            data = to_bytes(way)
            from_bytes(data)  # an error may pickle, and not accept its own arguments again
            return data
    if not isinstance(error, BaseExceptionGroup):
        return b""
    members = [(_error_bytes(each), _said(each), _notes(each)) for each in error.exceptions]
    return to_bytes(_Made(_grouped, error.message, members))


class _Made:
    """What arrives as the result of a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._made = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self._made


def _put_together(kind: type[BaseException], args: Any, attributes: Any) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(attributes)
    return error


def _grouped(message: str, members: Sequence[Any]) -> BaseExceptionGroup:
    return BaseExceptionGroup(message, [_read_error(*member) for member in members])


def _read_error(data: bytes, said: tuple[str, str, bool], notes: Sequence[str]) -> BaseException:
    """Return an error that came as bytes, or what stands for it."""
    name, text, retryable = said
    error: BaseException = RemoteError(name, text, retryable=retryable)
    if data:
        with suppress(Exception):  # a module that is not here
            error = from_bytes(data)
    if not hasattr(error, "__notes__"):
        for note in notes:
            annotate(error, note)
    return error


def read_outcome(outcome: bytes) -> Any:
    """Return the result of a call, or raise its error; its traceback there is the cause."""
    done, value = from_bytes(outcome)
    if done:
        return value
    *error, remote_traceback = value
    raise _read_error(*error) from RemoteTraceback(remote_traceback)


def _by_code(value: Any) -> bytes:
    from sage.kernel.runtime.cluster.mail.by_code import by_code  # of the cluster's extra

    return by_code(value)
