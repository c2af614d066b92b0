"""RunLoop: the event loop of a run, on which the coroutines of all its operators are."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent import futures
from typing import Any

from sage.common.core.background import in_background
from sage.kernel.runtime.coroutines.coroutine_call import CoroutineCall

logger = logging.getLogger(__name__)


class RunLoop:
    """Runs the coroutines of any number of operators on one thread, that of ``serve``.

    A run without coroutines makes no loop.

    Args:
        close_timeout: seconds that tasks have to end after they were cancelled, in a run that is
            through with its records.
        is_decided: whether the run was cancelled or has failed; then whoever closes it names the
            threads that do not end.
    """

    def __init__(self, close_timeout: float, is_decided: Callable[[], bool]) -> None:
        self._close_timeout = close_timeout
        self._is_decided = is_decided
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()  # nothing is handed to a loop that is closed
        self._arrived: deque[CoroutineCall] = deque()
        self._woken = False
        self._live: set[CoroutineCall] = set()
        self._operators = 0
        self._over = asyncio.Event()

    def __bool__(self) -> bool:
        """Whether an operator uses it."""
        return self._operators > 0

    # -- before and after it serves ---------------------------------------------------------------

    def enter(self) -> None:
        """Note an operator, which calls ``leave`` when it submits no more."""
        self._operators += 1
        self._open()

    def finish(self, result: Any) -> Any:
        """Return what a step returned; of one that is ``async def``, run the coroutine first."""
        if not asyncio.iscoroutine(result):
            return result
        # On another thread: this one may have a loop that runs, as in a notebook.
        running = in_background(self._open().run_until_complete, result)
        try:
            return running.result()
        except KeyboardInterrupt:
            self._call_soon(self._cancel_all)
            futures.wait([running], self._close_timeout)
            raise

    def close(self) -> None:
        """Free the loop. Idempotent."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and not loop.is_running():
            loop.close()

    # -- for any thread ---------------------------------------------------------------------------

    def leave(self) -> None:
        """Note that an operator submits no more; after the last one, ``serve`` returns."""
        with self._lock:
            self._operators -= 1
            last = self._operators == 0
        if last:
            self.end()

    def end(self) -> None:
        """Have ``serve`` return, once the tasks have ended that are left: it cancels them."""
        self._call_soon(self._over.set)

    def submit(self, call: CoroutineCall) -> None:
        """Start a coroutine soon."""
        self._arrived.append(call)
        if not self._woken:  # else the loop has not taken the earlier ones yet, and takes this too
            self._woken = True
            if not self._call_soon(self._start_arrived):
                call.cancel()

    def cancel_task(self, call: CoroutineCall) -> None:
        """Cancel the task of a call soon."""
        self._call_soon(call.cancel_task)

    # -- the thread that serves -------------------------------------------------------------------

    def serve(self) -> None:
        """Run coroutines until all operators have left."""
        self._open().run_until_complete(self._serve())

    async def _serve(self) -> None:
        await self._over.wait()
        left = self._cancel_all()
        names = ", ".join(sorted({call.operator for call in self._live}))
        if names:
            threading.current_thread().name += f" ({names})"
        while left:
            _, left = await asyncio.wait(left, timeout=self._close_timeout)
            if left and not self._is_decided():
                logger.warning(
                    "after %g s these operators have tasks that do not end, though they were "
                    "cancelled: %s; they are given up",
                    self._close_timeout,
                    ", ".join(sorted({task.get_name() for task in left})),
                )
                break
        await asyncio.get_running_loop().shutdown_asyncgens()

    def _start_arrived(self) -> None:
        self._woken = False  # first: what arrives from now on wakes the loop again
        while self._arrived:
            self._arrived.popleft().start(self._live)

    def _cancel_all(self) -> set[asyncio.Task[Any]]:
        tasks = asyncio.all_tasks(self._loop) - {asyncio.current_task(self._loop)}
        for task in tasks:
            if not task.cancelling():  # else a second one would break into its way out
                task.cancel()
        return tasks

    def _open(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop

    def _call_soon(self, callback: Callable[..., Any]) -> bool:
        """Have the loop call something; return False if there is none any more."""
        with self._lock:
            if self._loop is None:
                return False
            self._loop.call_soon_threadsafe(callback)
            return True
