"""Futures of what an engine does: ``attempt`` one, ``gather`` many, ``then`` convert one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from copy import copy
from typing import Any

from sage.common.components.sage_vllm.errors import (
    EngineClosedError,
    EngineError,
    InvalidRequestError,
)
from sage.common.core.futures import hand_over, settle


def gather(
    futures: Iterable[Future[Any]],
    combine: Callable[[list[Any]], Any],
    *,
    return_errors: bool = False,
    item: str = "item",
) -> Future[Any]:
    """Return a Future of ``combine(results)``, with the results in the order of ``futures``.

    ``futures`` may be a generator that starts one piece of work after the other: if it raises,
    what was started is cancelled. Later, the first error cancels the others and becomes the
    Future's; with ``return_errors`` an error takes its result's place instead. Cancelling the
    Future cancels them all. An InvalidRequestError that is raised says which ``item`` it is of.
    """
    parts = _all_or_none(futures, item)
    combined: Future[Any] = Future()
    if not parts:
        settle(combined, combine, [])
        return combined
    results: list[Any] = [None] * len(parts)
    failure: list[BaseException] = []
    left = len(parts)
    lock = threading.Lock()

    def part_done(index: int, part: Future[Any]) -> None:
        nonlocal left
        error = None if part.cancelled() else part.exception()
        if error is None and not part.cancelled():
            results[index] = part.result()
        elif return_errors:
            results[index] = error
        with lock:
            left -= 1
            last = left == 0
            failed = error is not None and not return_errors and not failure
            if failed and error is not None:
                failure.append(_of_item(error, f"{item} {index}"))
        if failed:
            _cancel(parts)
        if last and combined.set_running_or_notify_cancel():
            if failure:
                combined.set_exception(failure[0])
            else:
                settle(combined, combine, results)
        if last:
            parts.clear()  # they and the combined one would keep each other, and all results

    combined.add_done_callback(lambda done: _cancel(parts) if done.cancelled() else None)
    for index, part in enumerate(parts):
        part.add_done_callback(lambda done, index=index: part_done(index, done))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    return combined


def attempt(start: Callable[[], Future[Any]], *, return_errors: bool) -> Future[Any]:
    """Return the Future of what ``start`` starts; with ``return_errors`` one of what it raises.

    EngineClosedError is always raised: the slot may have another engine for the whole call.
    """
    try:
        return start()
    except EngineClosedError:
        raise
    except (EngineError, ValueError) as error:
        if not return_errors:
            raise
        failed: Future[Any] = Future()
        failed.set_exception(error)
        return failed


def then(
    future: Future[Any], convert: Callable[[Any], Any], *, return_errors: bool = False
) -> Future[Any]:
    """Return a Future of ``convert(result)``; cancelling it cancels ``future``.

    With ``return_errors``, ``convert`` is given an error in its result's place.
    """
    converted: Future[Any] = Future()
    hand_over(future, converted, convert, return_errors=return_errors)
    return converted


def wait_for(future: Future[Any]) -> Any:
    """Return a Future's result; a Ctrl-C of its caller must not leave the engine at work."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
    finally:
        del future  # an error's traceback refers to this frame


def _all_or_none(futures: Iterable[Future[Any]], item: str) -> list[Future[Any]]:
    started: list[Future[Any]] = []
    try:
        started.extend(futures)  # one by one: those before one that raises are in the list
    except BaseException as error:
        _cancel(started)
        named = _of_item(error, f"{item} {len(started)}")
        if named is error:
            raise
        raise named from None
    return started


def _of_item(error: BaseException, which: str) -> BaseException:
    if not isinstance(error, InvalidRequestError):
        return error
    named = copy(error)
    named.problem = f"{which}: {error.problem}"
    named.args = (named.problem,)
    return named


def _cancel(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()
