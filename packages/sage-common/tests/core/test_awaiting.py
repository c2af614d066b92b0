"""Coroutines wait for Futures and blocking calls without holding up their event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest
import uvloop

from sage.common.core import awaiting
from sage.common.core.background import in_background
from sage.common.core.futures import errors_in_future, hand_over

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
REQUEST: ContextVar[str] = ContextVar("REQUEST", default="none")


@LOOPS
def test_a_start_that_takes_long_does_not_hold_up_the_loop(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    done: Future[str] = Future()
    done.set_result("done")

    def start(word: str, *, number: int, loop: asyncio.AbstractEventLoop) -> Future[str]:
        assert (word, number, REQUEST.get()) == ("word", 7, "mine")
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result(10)
        return done

    async def main() -> str:
        REQUEST.set("mine")
        return await awaiting.call(start, "word", number=7, loop=asyncio.get_running_loop())

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(main()) == "done"


def test_what_start_raises_is_raised_at_the_await() -> None:
    def start() -> Future[Any]:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        asyncio.run(awaiting.call(start))


def test_an_error_that_was_seen_keeps_nothing_of_its_call() -> None:
    class Prompt:
        pass

    def start(prompt: Prompt) -> Future[Any]:
        raise LookupError(id(prompt))

    async def main() -> None:
        prompt = Prompt()
        kept = weakref.ref(prompt)
        with suppress(LookupError):
            await awaiting.call(start, prompt)
        del prompt
        await asyncio.get_running_loop().shutdown_default_executor()  # it may be about to end
        assert kept() is None

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_cancelling_before_a_start_has_its_turn_means_that_it_is_not_called() -> None:
    started: list[str] = []
    release = threading.Event()

    def start() -> Future[Any]:
        started.append("late")
        return Future()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, release.wait, 10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await awaiting.call(start)
        release.set()
        await busy

    asyncio.run(main())  # which waits for the executor
    assert started == []


def test_cancelling_during_a_start_cancels_what_it_started() -> None:
    begun, release = threading.Event(), threading.Event()
    future: Future[Any] = Future()

    def start() -> Future[Any]:
        begun.set()
        assert release.wait(10)
        return future

    async def main() -> None:
        task = asyncio.create_task(awaiting.call(start))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not future.cancelled()
        release.set()

    asyncio.run(main())
    assert future.cancelled()


def test_a_future_that_somebody_else_cancels_is_an_error_and_no_cancelled_task() -> None:
    async def main() -> int:
        future: Future[Any] = Future()
        task = asyncio.create_task(awaiting.result_of(future))
        await asyncio.sleep(0)
        future.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            await task
        current = asyncio.current_task()
        assert current is not None
        return current.cancelling()

    assert asyncio.run(main()) == 0


@LOOPS
def test_a_loop_that_is_closed_under_a_call_cancels_it_and_says_nothing(
    new_loop: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    futures: list[Future[Any]] = [Future(), Future()]
    loop = new_loop()
    tasks = [loop.create_task(awaiting.result_of(future)) for future in futures]
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        futures[0].set_result("nobody waits for it")
    assert caplog.records == []
    while tasks:
        tasks.pop()._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant
    gc.collect()
    assert futures[1].cancelled()


def test_a_blocking_call_goes_on_when_its_await_is_cancelled() -> None:
    release, ended = threading.Event(), threading.Event()

    def work() -> None:
        assert release.wait(10)
        assert REQUEST.get() == "mine"
        ended.set()

    async def main() -> None:
        REQUEST.set("mine")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await awaiting.in_thread(work)

    asyncio.run(main())
    release.set()
    assert ended.wait(10)


def test_a_call_in_the_background_cannot_be_cancelled() -> None:
    release = threading.Event()
    future = in_background(release.wait, 10)
    assert not future.cancel()
    release.set()
    assert future.result(10) is True


def test_errors_of_a_start_are_its_futures() -> None:
    @errors_in_future
    def start(number: int) -> Future[float]:
        future: Future[float] = Future()
        future.set_result(1 / number)
        return future

    calls: Any = start
    assert start(4).result() == 0.25
    for wrong, error in ((lambda: calls(0), ZeroDivisionError), (lambda: calls(), TypeError)):
        assert isinstance(wrong().exception(), error)


def test_a_cancel_is_handed_over_in_both_directions() -> None:
    for first, second in ((0, 1), (1, 0)):
        futures: list[Future[Any]] = [Future(), Future()]
        hand_over(*futures)
        futures[first].cancel()
        assert futures[second].cancelled()
