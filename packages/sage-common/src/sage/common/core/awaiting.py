"""Futures and blocking calls for coroutines; none of them holds up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar
from weakref import WeakMethod

from sage.common.core.background import in_background
from sage.common.core.futures import errors_in_future, hand_over

_T = TypeVar("_T")


async def result_of(future: Future[_T]) -> _T:
    """Await a Future; cancelling the await cancels it, and so does a loop that ends meanwhile.

    A Future that somebody else cancelled raises ``concurrent.futures.CancelledError``, an ordinary
    error: ``asyncio.CancelledError`` says that the task itself was cancelled.
    """
    done = asyncio.Event()
    wake_up = on_loop(done.set)
    future.add_done_callback(lambda _: wake_up())
    try:
        await done.wait()
        return future.result()
    except BaseException:  # a task of a loop that has ended is closed when it is collected
        future.cancel()
        raise
    finally:
        del future  # an error's traceback refers to this frame


async def call(start: Callable[..., Future[_T]], *args: Any, **kwargs: Any) -> _T:
    """Await what a function's Future results in; the function runs on a thread of the loop's."""
    return await result_of(started_in_thread(start, *args, **kwargs))


async def in_thread(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
    """Await a blocking call on a daemon thread; it runs to its end, also if the await is cancelled.

    Other than the threads of ``asyncio.to_thread``, it keeps neither the loop nor the interpreter
    from ending.
    """
    result: _T = await result_of(in_background(function, *args, **kwargs))
    return result


def started_in_thread(start: Callable[..., Future[_T]], *args: Any, **kwargs: Any) -> Future[_T]:
    """Return at once a Future of what ``start`` will return a Future of, on a thread of the loop's.

    To start work takes a while: prompts become tokens, files are read. Cancelling the Future before
    that means that ``start`` is not called, or that what it started is cancelled.
    """
    outer: Future[_T] = Future()
    waiting = [outer]

    def begin() -> None:
        future = waiting.pop()
        try:
            if not future.cancelled():
                hand_over(errors_in_future(start)(*args, **kwargs), future)
        finally:
            del future  # an error's traceback leads to this frame

    asyncio.get_running_loop().run_in_executor(None, copy_context().run, begin)
    return outer


def on_loop(method: Callable[..., None]) -> Callable[..., None]:
    """Return a function that any thread may call, to have the running loop call this method.

    It does not keep the method's object alive, so a task that nobody runs any more is collected.
    """
    loop, reference = asyncio.get_running_loop(), WeakMethod(method)

    def call_soon(*args: Any) -> None:
        target = reference()
        if target is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(target, *args)

    return call_soon
