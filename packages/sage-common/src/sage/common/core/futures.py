"""What Futures need besides: ``hand_over`` one's outcome, and have a call fail in its Future."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import wraps
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


def errors_in_future(start: Callable[_P, Future[_T]]) -> Callable[_P, Future[_T]]:
    """Have a function that returns a Future never raise: what it raises is that Future's.

    So whoever starts many calls handles all their errors in one place, where the results are.
    """

    @wraps(start)
    def started(*args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        try:
            return start(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            failed: Future[_T] = Future()
            failed.set_exception(error)
            try:
                return failed
            finally:
                del failed  # the error's traceback refers to this frame

    return started


def hand_over(
    inner: Future[Any],
    outer: Future[Any],
    convert: Callable[[Any], Any] = lambda result: result,
    *,
    return_errors: bool = False,
) -> None:
    """Complete ``outer`` with the outcome of ``inner``, and pass a cancel of ``outer`` on.

    With ``return_errors``, ``convert`` is given an error in its result's place.
    """

    def pass_on(done: Future[Any]) -> None:
        if done.cancelled():
            outer.cancel()
        if not outer.set_running_or_notify_cancel():
            return
        error = done.exception()
        if error is None:
            settle(outer, convert, done.result())
        elif return_errors:
            settle(outer, convert, error)
        else:
            outer.set_exception(error)

    inner.add_done_callback(pass_on)
    cancel_with(outer, inner)


def cancel_with(outer: Future[Any], inner: Future[Any]) -> None:
    """Have a cancel of ``outer`` cancel ``inner``.

    Once ``inner`` is done ``outer`` does not refer to it any more. A Future keeps its callbacks for
    good, so two of them that refer to each other would keep their results until a garbage
    collection.
    """
    cancelled_too = [inner]

    def cancel(done: Future[Any]) -> None:
        if done.cancelled():
            for each in cancelled_too[:]:
                each.cancel()

    inner.add_done_callback(lambda _: cancelled_too.clear())
    outer.add_done_callback(cancel)


def settle(future: Future[Any], convert: Callable[[Any], Any], result: Any) -> None:
    """Complete a Future with ``convert(result)``, or with what that raises."""
    try:
        converted = convert(result)
    except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
        future.set_exception(error)
    else:
        future.set_result(converted)
