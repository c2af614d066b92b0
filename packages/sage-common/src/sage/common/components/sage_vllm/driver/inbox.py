"""Inbox: what callers' threads say to the thread that drives an engine."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import Any

from sage.common.components.sage_vllm.driver.engine_request import EngineRequest
from sage.common.components.sage_vllm.errors import EngineError


class End(Enum):
    """How a driver is told to end."""

    NOW = auto()
    DRAINED = auto()  # after what is in flight, and what comes meanwhile


@dataclass(frozen=True, slots=True)
class Cancelled:
    """All who wanted its result have cancelled the Futures of this request."""

    request_id: str


@dataclass(frozen=True, slots=True)
class EngineDied:
    """Said by whoever watches the engine's process; runtimes are numbered from 1."""

    runtime_number: int


Command = EngineRequest | Cancelled | EngineDied | End


class Inbox:
    """A queue of commands that can be ended: from then on it raises what it was ended with."""

    def __init__(self) -> None:
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._lock = threading.Lock()
        self._draining = False
        self._ended: EngineError | None = None

    @property
    def ended(self) -> EngineError | None:
        """Why no more requests are accepted."""
        return self._ended

    def check_open(self) -> None:
        """Raise what requests are refused with, if they are."""
        if self._ended is not None:
            raise self._ended.with_traceback(None)  # else it would grow with each call

    def submit(self, request: EngineRequest) -> None:
        """Hand over a request; cancelling its Future from now on is handed over too."""
        with self._lock:  # no request may come in after the driver has emptied it
            self.check_open()
            self._commands.put(request)
        self.watch(request, request.future)

    def watch(self, request: EngineRequest, future: Future[Any]) -> None:
        """Hand over a cancel of one of the request's Futures, if it is the last one."""

        def done(future: Future[Any]) -> None:
            if future.cancelled() and request.give_up():
                self._commands.put(Cancelled(request.id))

        future.add_done_callback(done)

    def tell(self, command: EngineDied | End) -> None:
        """Hand over a command that no caller waits for."""
        self._draining |= command is End.DRAINED
        self._commands.put(command)  # one to drain does no more than wake up who waits

    def take(self, *, wait: bool) -> Command | None:
        """Return the next command; None if there is none, unless it is to ``wait`` for one."""
        try:
            return self._commands.get(block=wait)
        except Empty:
            return None

    def end(self, error: EngineError) -> list[EngineRequest]:
        """Accept no more; return the requests that nobody has taken. The first error stays."""
        with self._lock:
            self._ended = self._ended or error
            left: list[EngineRequest] = []
            while (command := self.take(wait=False)) is not None:
                if isinstance(command, EngineRequest):
                    left.append(command)
            return left

    def end_if_drained(self, error: EngineError) -> bool:
        """Accept no more once a drain has emptied the inbox; return whether none are accepted."""
        if not self._draining:
            return False
        with self._lock:
            if self._commands.empty():
                self._ended = error
            return self._ended is not None
