"""Values and errors as bytes, and back: what goes to another process and comes from there.

All of it is pickled here, so that a cluster carries bytes alone and no error of ours is wrapped in
one of its own. A value that cannot be pickled is the error of the call that it belongs to.
"""

from __future__ import annotations

import pickle
import traceback
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
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        words = str(error)
    except Exception as unsaid:  # noqa: BLE001 - the class is a user's
        words = f"its text cannot be made: {type(unsaid).__name__}"
    said = (name, words, bool(getattr(error, "retryable", False)))
    text = "".join(traceback.format_exception(error))
    notes = list(getattr(error, "__notes__", ()))
    data = b""
    if exits or isinstance(error, Exception):
        data = _error_bytes(error)
    return to_bytes((False, (data, said, notes, text)))


def _error_bytes(error: BaseException) -> bytes:
    """Return an error as bytes; none if it cannot be brought over."""
    for way in (error, _Parts(error)):
        with suppress(Exception):
            data = to_bytes(way)
            from_bytes(data)  # an error may pickle, and not accept its own arguments again
            return data
    return b""


class _Parts:
    """An error that is put together again without its ``__init__``, which may want other things."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _put_together, (type(self._error), self._error.args, vars(self._error))


def _put_together(kind: type[BaseException], args: Any, attributes: Any) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(attributes)
    return error


def read_outcome(outcome: bytes) -> Any:
    """Return the result of a call, or raise its error; its traceback there is the cause."""
    done, value = from_bytes(outcome)
    if done:
        return value
    data, (name, text, retryable), notes, remote_traceback = value
    error: BaseException = RemoteError(name, text, retryable=retryable)
    if data:
        with suppress(Exception):  # a module that is not here
            error = from_bytes(data)
    if not hasattr(error, "__notes__"):
        for note in notes:
            annotate(error, note)
    raise error from RemoteTraceback(remote_traceback)


def _by_code(value: Any) -> bytes:
    import cloudpickle  # a package of the cluster's extra

    data: bytes = cloudpickle.dumps(value, 5)
    return data
