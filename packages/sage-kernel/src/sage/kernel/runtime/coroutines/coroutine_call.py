"""CoroutineCall: one record's coroutine, from any thread's submit to its Future's result."""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Callable, Coroutine, Generator
from concurrent import futures
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from sage.kernel.runtime.coroutines.kept_calls import POSITION

BLOCKED_SECONDS = 1.0
"""A coroutine that runs for so long between two awaits holds up all others."""


class CoroutineCall(Future[Any]):
    """The Future of a coroutine on a loop; cancelling it cancels the coroutine's task.

    Args:
        execute: called with the record on the loop's thread; returns a coroutine.
        operator: the operator's name.
        tell_blocked: told how many seconds the coroutine ran without an await, if that is long.
        cancel_task: has the loop call ``cancel_task`` of this.
    """

    def __init__(
        self,
        execute: Callable[[Any], Coroutine[Any, Any, Any]],
        record: Any,
        *,
        operator: str,
        tell_blocked: Callable[[float], None],
        cancel_task: Callable[[CoroutineCall], None],
    ) -> None:
        super().__init__()
        self.operator = operator
        self._execute = execute
        self._record = record
        self._tell_blocked = tell_blocked
        self._cancel_task = cancel_task
        self._position = POSITION.get()
        self._task: asyncio.Task[None] | None = None

    def cancel(self) -> bool:
        """Cancel it, unless it is done; the coroutine gets a CancelledError from its await."""
        cancelled = super().cancel()
        if cancelled:
            self._cancel_task(self)
        return cancelled

    # -- on the loop's thread ---------------------------------------------------------------------

    def start(self, live: set[CoroutineCall]) -> None:
        """Start the coroutine, unless it was cancelled; it is in ``live`` until it ends."""
        if not self.cancelled():
            live.add(self)  # a loop keeps no task that waits
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(live), name=self.operator)

    def cancel_task(self) -> None:
        """Cancel the coroutine, if it was started; a second time would break into its way out."""
        if self._task is not None and not self._task.cancelling():
            self._task.cancel()

    async def _run(self, live: set[CoroutineCall]) -> None:
        POSITION.set(self._position)  # of this task, and of those that it starts
        try:
            result = await _watched(self._execute(self._record), self._tell_blocked)
        except asyncio.CancelledError as cancelled:
            # Else it is by a cancel of this call, and nobody waits for it.
            error = futures.CancelledError("the coroutine was cancelled from within")
            error.__cause__ = cancelled
            self._settle(self.set_exception, error)
        except BaseException as error:  # noqa: BLE001 - it is the record's
            # Without this frame, which refers to the Future: they would keep each other alive.
            inside = error.__traceback__.tb_next if error.__traceback__ else None
            self._settle(self.set_exception, error.with_traceback(inside))
        else:
            self._settle(self.set_result, result)
        finally:
            live.discard(self)
            self._task = None  # they refer to each other

    def _settle(self, settle: Callable[[Any], None], outcome: Any) -> None:
        with suppress(InvalidStateError):  # it was cancelled
            settle(outcome)


@types.coroutine
def _watched(
    coroutine: Coroutine[Any, Any, Any], tell_blocked: Callable[[float], None]
) -> Generator[Any, Any, Any]:
    """Await a coroutine step by step, and tell of a step that lasts long."""
    step: Callable[[Any], Any] = coroutine.send
    argument: Any = None
    while True:
        began = time.perf_counter()
        try:
            awaited = step(argument)
        except StopIteration as done:
            return done.value
        finally:
            if (seconds := time.perf_counter() - began) > BLOCKED_SECONDS:
                tell_blocked(seconds)
        try:
            argument = yield awaited
            step = coroutine.send
        except BaseException as error:  # noqa: BLE001 - it is for the coroutine to handle
            step, argument = coroutine.throw, error
