"""EngineSlot: the place of one engine in the service, through which it can be replaced."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Engine
from sage.common.components.sage_vllm.errors import EngineClosedError
from sage.common.core.futures import hand_over

Start = Callable[[Engine], Future[Any]]
"""Starts a call on an engine."""


@dataclass(frozen=True, kw_only=True)
class Expiry:
    """When a call that still waits for an engine ends, by time.perf_counter, and its result."""

    at: float
    result: Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """The calls for the engine of a slot; times are those of time.perf_counter.

    - ``running``: calls that were started and are not done; 0 where they are not counted.
    - ``waiting``: prompts and texts of calls that wait for an engine; ``since`` when the first of
      these calls came, None if there is none.
    - ``used``: when the last call that ran was done.
    """

    running: int
    waiting: int
    since: float | None
    used: float


@dataclass(slots=True)
class _Waiting:
    start: Start
    work: int
    since: float
    expiry: Expiry | None


class EngineSlot:
    """Calls reach the engine that is in the slot; while there is none, they wait for the next.

    Args:
        model_id: for the errors of calls that find the slot closed.
        on_wait: is told when a call begins to wait.
        on_idle: is told when no call runs any more.
        counts: whether running calls are counted, which an engine that is never unloaded can do
            without.
    """

    def __init__(
        self,
        model_id: str,
        on_wait: Callable[[], None] = lambda: None,
        on_idle: Callable[[], None] = lambda: None,
        *,
        counts: bool = True,
    ) -> None:
        self._model_id = model_id
        self._counts = counts
        self._on_wait = on_wait
        self._on_idle = on_idle
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._running = 0
        self._used = time.perf_counter()
        self._waiting: dict[Future[Any], _Waiting] = {}
        self._expiring: list[tuple[float, int, Future[Any]]] = []
        self._numbers = count()
        self._closed: Exception | None = None

    @property
    def engine(self) -> Engine | None:
        """The engine that calls reach now."""
        return self._engine

    def check_open(self) -> None:
        """Raise what calls are refused with, if they are."""
        if self._closed is not None:
            raise self._closed.with_traceback(None)  # else it would grow with each call

    def demand(self) -> Demand:
        """Return who wants the engine now."""
        with self._lock:
            waiting = self._waiting.values()
            return Demand(
                running=self._running,
                waiting=sum(call.work for call in waiting),
                since=next((call.since for call in waiting), None),
                used=self._used,
            )

    def call(self, start: Start, *, work: int = 1, expiry: Expiry | None = None) -> Future[Any]:
        """Start a call on the engine, or as soon as there is one; raises what ``start`` raises.

        ``work`` is how many prompts or texts it has. One that waits is over at its ``expiry``.
        """
        while True:
            with self._lock:
                self.check_open()
                engine = self._engine
                if engine is not None and self._counts:
                    self._running += 1
            if engine is None:
                if (waiting := self._wait(start, work, expiry)) is None:
                    continue
                self._on_wait()
                return waiting
            try:
                future = start(engine)
            except EngineClosedError:
                self._ended()
                if self._engine is engine:
                    raise
                # It was replaced between the two: the next one takes the call.
            except BaseException:
                self._ended()
                raise
            else:
                if self._counts:
                    future.add_done_callback(self._ended)
                return future

    def _wait(self, start: Start, work: int, expiry: Expiry | None) -> Future[Any] | None:
        """Have a call wait for an engine; return None if there is one meanwhile."""
        future: Future[Any] = Future()
        with self._lock:
            self.check_open()
            if self._engine is not None:
                return None
            self._waiting[future] = _Waiting(start, work, time.perf_counter(), expiry)
            if expiry is not None:
                heapq.heappush(self._expiring, (expiry.at, next(self._numbers), future))
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: Future[Any]) -> None:
        """Take a call that was cancelled out of the waiting ones."""
        with self._lock:
            self._waiting.pop(future, None)

    def _ended(self, _future: Future[Any] | None = None) -> None:
        if not self._counts:
            return
        with self._lock:
            self._running -= 1
            idle = not self._running
            if idle:
                self._used = time.perf_counter()
        if idle:
            self._on_idle()

    def put(self, engine: Engine) -> Engine | None:
        """Place an engine, start the calls that waited for it, and return the one before it."""
        with self._lock:
            self.check_open()
            before, self._engine = self._engine, engine
            waiting = self._take_waiting()
            self._running += len(waiting) if self._counts else 0
            self._used = time.perf_counter()
        for future, call in waiting.items():
            self._start_waiting(call.start, engine, future)
        return before

    def take_out(self) -> Engine | None:
        """Leave the slot empty, so that calls wait, and return the engine that was in it."""
        with self._lock:
            engine, self._engine = self._engine, None
        return engine

    def expire(self, now: float) -> float | None:
        """End the calls that have waited until their expiry; return when the next one is due."""
        due = []
        with self._lock:
            while self._expiring and self._expiring[0][0] <= now:
                future = heapq.heappop(self._expiring)[2]
                if (call := self._waiting.pop(future, None)) is not None:
                    due.append((future, call.expiry))
            while self._expiring and self._expiring[0][2] not in self._waiting:
                heapq.heappop(self._expiring)
            following = self._expiring[0][0] if self._expiring else None
        for future, expiry in due:
            if expiry is not None and future.set_running_or_notify_cancel():
                future.set_result(expiry.result())
        return following

    def fail_waiting(self, error: Exception) -> None:
        """Fail the calls that wait for an engine; later ones wait for the next."""
        with self._lock:
            waiting = self._take_waiting()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def refuse(self, error: Exception | None = None) -> None:
        """Refuse further calls, and fail those that wait, with ``error`` or EngineClosedError."""
        with self._lock:
            self._closed = self._closed or error or EngineClosedError(self._model_id)
        self.fail_waiting(self._closed)

    def _take_waiting(self) -> dict[Future[Any], _Waiting]:
        waiting, self._waiting = self._waiting, {}
        self._expiring.clear()
        return waiting

    def _start_waiting(self, start: Start, engine: Engine, outer: Future[Any]) -> None:
        """Start a call that has waited; its Future takes over the result and passes a cancel on."""
        outer.add_done_callback(self._ended)
        if outer.cancelled():
            return
        try:
            inner = start(engine)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            if outer.set_running_or_notify_cancel():
                outer.set_exception(error)
            return
        hand_over(inner, outer)
