"""gather: one Future of many."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any


def gather(
    futures: Sequence[Future[Any]],
    combine: Callable[[list[Any]], Any],
    *,
    return_errors: bool = False,
) -> Future[Any]:
    """Return a Future of ``combine(results)``, with the results in the order of ``futures``.

    The first error cancels the others and becomes the Future's; with ``return_errors`` an error
    takes its result's place instead. Cancelling the Future cancels them all.
    """
    combined: Future[Any] = Future()
    if not futures:
        combined.set_result(combine([]))
        return combined
    results: list[Any] = [None] * len(futures)
    left = len(futures)
    lock = threading.Lock()

    def cancel_all() -> None:
        for future in futures:
            future.cancel()

    def settle(index: int, future: Future[Any]) -> None:
        nonlocal left
        error = None if future.cancelled() else future.exception()
        if error is None and not future.cancelled():
            results[index] = future.result()
        elif return_errors:
            results[index] = error
        with lock:
            left -= 1
            last = left == 0
            failed = error is not None and not return_errors and not failure
            if failed:
                failure.append(error)
        if failed:
            cancel_all()
        if last and combined.set_running_or_notify_cancel():
            _finish(combined, failure, combine, results)

    failure: list[BaseException | None] = []
    combined.add_done_callback(lambda done: cancel_all() if done.cancelled() else None)
    for index, future in enumerate(futures):
        future.add_done_callback(lambda done, index=index: settle(index, done))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    return combined


def _finish(
    combined: Future[Any],
    failure: list[BaseException | None],
    combine: Callable[[list[Any]], Any],
    results: list[Any],
) -> None:
    if failure:
        combined.set_exception(failure[0])
        return
    try:
        combined.set_result(combine(results))
    except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
        combined.set_exception(error)
