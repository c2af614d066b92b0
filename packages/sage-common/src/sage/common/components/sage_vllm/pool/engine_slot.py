"""EngineSlot: the place of one engine in the service, through which it can be replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Engine
from sage.common.components.sage_vllm.errors import EngineClosedError
from sage.common.core.futures import hand_over

Start = Callable[[Engine], Future[Any]]
"""Starts a call on an engine."""


class EngineSlot:
    """Calls reach the engine that is in the slot; while there is none, they wait for the next.

    ``model_id`` is for the errors of calls that find the slot closed.
    """

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._waiting: list[tuple[Start, Future[Any]]] = []
        self._closed: Exception | None = None

    @property
    def engine(self) -> Engine | None:
        """The engine that calls reach now."""
        return self._engine

    def check_open(self) -> None:
        """Raise what calls are refused with, if they are."""
        if self._closed is not None:
            raise self._closed.with_traceback(None)  # else it would grow with each call

    def call(self, start: Start) -> Future[Any]:
        """Start a call on the engine, or as soon as there is one; raises what ``start`` raises."""
        while True:
            with self._lock:
                self.check_open()
                engine = self._engine
                if engine is None:
                    waiting: Future[Any] = Future()
                    self._waiting.append((start, waiting))
                    return waiting
            try:
                return start(engine)
            except EngineClosedError:
                if self._engine is engine:
                    raise
                # It was replaced between the two: the next one takes the call.

    def put(self, engine: Engine) -> Engine | None:
        """Place an engine, start the calls that waited for it, and return the one before it."""
        with self._lock:
            self.check_open()
            before, self._engine = self._engine, engine
            waiting, self._waiting = self._waiting, []
        for start, future in waiting:
            _start_waiting(start, engine, future)
        return before

    def take_out(self) -> Engine | None:
        """Leave the slot empty, so that calls wait, and return the engine that was in it."""
        with self._lock:
            engine, self._engine = self._engine, None
        return engine

    def fail_waiting(self, error: Exception) -> None:
        """Fail the calls that wait for an engine; later ones wait for the next."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def refuse(self, error: Exception | None = None) -> None:
        """Refuse further calls, and fail those that wait, with ``error`` or EngineClosedError."""
        with self._lock:
            self._closed = self._closed or error or EngineClosedError(self._model_id)
        self.fail_waiting(self._closed)


def _start_waiting(start: Start, engine: Engine, outer: Future[Any]) -> None:
    """Start a call that has waited; its Future takes over the result, and passes a cancel on."""
    if outer.cancelled():
        return
    try:
        inner = start(engine)
    except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
        if outer.set_running_or_notify_cancel():
            outer.set_exception(error)
        return
    hand_over(inner, outer)
