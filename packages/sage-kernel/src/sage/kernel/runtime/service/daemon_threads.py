"""DaemonThreads: where calls run that must not hold their caller's thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial
from typing import Any

from sage.common.service import ServiceClosedError


class DaemonThreads:
    """Runs the calls to one service on at most ``limit`` threads, made as they are needed.

    A call begins once it has one of the ``slots``, and can be cancelled until then.

    The interpreter does not wait for these threads when it ends. For those of a ThreadPoolExecutor
    it does, so that one call that never returns would keep it from ending.
    """

    def __init__(self, service: str, limit: int | None, slots: AbstractContextManager[Any]) -> None:
        self._service = service
        self._limit = limit
        self._slots = slots
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a call and return its Future; raises ServiceClosedError.

        It runs with the context variables of now.
        """
        call = partial(copy_context().run, function, *args, **kwargs)
        future: Future[Any] = Future()
        with self._changed:
            if self._closed:
                raise ServiceClosedError(self._service)
            if self._idle:
                self._idle -= 1  # here, so that the next submit() does not count on it too
                self._changed.notify()
            elif self._limit is None or self._threads < self._limit:
                # First: if the system has no thread left, the caller hears of it and nothing runs.
                self._start_thread()
            self._calls.append((future, call))
        return future

    def allow_one_more(self) -> None:
        """Raise the limit by one thread, in place of one that a call holds which was given up."""
        with self._changed:
            if self._limit is not None:
                self._limit += 1
                if self._calls and not self._idle:
                    self._start_thread()

    def close(self) -> None:
        """Cancel the calls that wait; each thread ends after its present call."""
        with self._changed:
            self._closed = True
            waiting, self._calls = self._calls, deque()
            self._changed.notify_all()
        for future, _ in waiting:
            if future.cancel():
                future.set_running_or_notify_cancel()  # wakes concurrent.futures.wait() too

    def _start_thread(self) -> None:
        name = f"sage-service-{self._service}-{self._threads + 1}"
        threading.Thread(target=self._work, name=name, daemon=True).start()
        self._threads += 1

    def _work(self) -> None:
        while call := self._take():
            self._run(*call)
            del call  # keep neither arguments nor result while there is nothing to do

    def _take(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            while not self._calls and not self._closed:
                self._idle += 1
                self._changed.wait()
            return self._calls.popleft() if self._calls else None

    def _run(self, future: Future[Any], call: Callable[[], Any]) -> None:
        try:
            with self._slots:
                if not future.set_running_or_notify_cancel():
                    return
                if self._closed:
                    why = "it was closed before the call could run"
                    raise ServiceClosedError(self._service, why)  # noqa: TRY301 - the call's error
                result = call()
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)
            del future  # the error's traceback refers to this frame
        else:
            future.set_result(result)
