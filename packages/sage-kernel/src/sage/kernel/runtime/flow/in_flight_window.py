"""InFlightWindow: keeps many records of one asynchronous operator in flight."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from concurrent.futures import CancelledError, Future
from itertools import count, takewhile
from queue import Empty, SimpleQueue
from typing import Any

from sage.common.core.backoff import full_jitter
from sage.common.core.errors import RecordTimeoutError
from sage.common.core.functions import AsyncMapFunction
from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.flow.error_policy import ErrorPolicy
from sage.kernel.runtime.flow.link import Mark, Push, States, no_mark
from sage.kernel.runtime.flow.room import Room
from sage.kernel.runtime.flow.start_queue import StartQueue
from sage.kernel.runtime.metrics.counts import Counts


class Entry:
    """A record in the window, from its arrival to its emission."""

    __slots__ = (
        "attempts", "emitted", "error", "future", "late_at", "mark", "position", "record", "result",
        "settled", "size",
    )  # fmt: skip

    def __init__(self, record: Any, size: int) -> None:
        self.record = record
        self.size = size  # bytes
        self.late_at: float | None = None
        self.mark: tuple[int, States] | None = None  # sent to the next operator behind the record
        self.position: int | None = None  # all before it in the source was pushed earlier
        self.emitted = False
        self.attempts = 0
        self.future: Future[Any] | None = None
        self.settled = False
        self.result: Any = None
        self.error: BaseException | None = None


_FINISH = object()
_CANCEL = object()
_WAKE = object()


class InFlightWindow:
    """The upstream thread pushes records; one emitter thread runs, and alone settles them.

    A record has its place in the window from ``push`` until it was emitted, which bounds both
    what is in flight and what waits for an earlier record of an ordered stream. Completions
    arrive on one queue, written by whichever threads complete the Futures; the emitter sleeps on
    it until the next completion, timeout or retry.

    A record is started by the upstream thread when it comes. Where the function has a StartOrder
    the window may be wider than what is in flight, and the emitter starts records from it.
    """

    def __init__(
        self,
        function: AsyncMapFunction,
        *,
        operator: str,
        policy: ErrorPolicy,
        counts: Counts,
        emit: Push,
        emit_mark: Mark = no_mark,
    ) -> None:
        self._function = function
        self._operator = operator
        self._policy = policy
        self._counts = counts
        self._emit = emit
        self._emit_mark = emit_mark
        self._last: Entry | None = None  # the latest that was pushed
        self._marking = threading.Lock()  # guards the marks of entries, and keeps marks in order
        size = function.max_in_flight
        if size is None:
            size = function.default_max_in_flight()
        if size < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {size}")
        self._most_in_flight = size
        self._start_order = function.start_order()
        self._room = Room(size, self._start_order)
        self._waiting = None if self._start_order is None else StartQueue(self._start_order, size)
        counts.start_order = self._start_order
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._order: deque[Entry] = deque()  # not emitted, in input order; ordered streams only
        self._unsettled: dict[Entry, None] = {}  # started, oldest first; guarded by _lock
        self._lock = threading.Lock()
        self._retries: list[tuple[float, int, Entry]] = []
        self._tie_break = count()
        self._finished = False
        self._cancelled = False

    def push(self, record: Any) -> None:
        """Take a record into the window, waiting for a place in it. Upstream thread."""
        order, waiting = self._start_order, self._waiting
        key, size = (None, 0) if order is None else order.place(record)
        self._room.enter(size)
        entry = self._last = Entry(record, size)
        if self._function.ordered:
            self._order.append(entry)  # before the emitter can see it, and time it out
        if waiting is None:
            self._start(entry)
        elif waiting.put(entry, key, size):
            self._events.put(_WAKE)

    def resize(self, size: int) -> None:
        """Change how many records the window holds; those that are in it stay. Any thread."""
        self._most_in_flight = size
        if self._waiting is not None:
            self._waiting.max_in_flight = size
        self._room.resize(size)

    def mark(self, position: int, states: States) -> None:
        """Say that all before a position was pushed; it goes on when that was emitted.

        That is by the emitter behind the record pushed last, or at once from this thread, with the
        emitter asleep: neither wakes it for a mark.
        """
        with self._marking:
            if self._last is None or self._last.emitted:
                self._emit_mark(position, states)
            else:
                self._last.mark = (position, states)

    def finish(self) -> None:
        """Say that no record will follow. Upstream thread."""
        self._events.put(_FINISH)

    def cancel(self) -> None:
        """Cancel what is in flight and make both threads leave. Any thread."""
        with self._lock:
            self._cancelled = True
            in_flight = list(self._unsettled)
        self._events.put(_CANCEL)
        self._room.cancel()
        for entry in in_flight:
            if entry.future is not None:
                entry.future.cancel()

    def run(self) -> None:
        """Settle and emit records until the last one. Emitter thread.

        It starts and settles all that it can before it emits the next record of an ordered
        stream: many may have become ready at once, and what takes them may be slow.
        """
        while not (self._finished and self._is_empty):
            wait = self._seconds_to_next_timer()
            if wait is not None and wait <= 0:
                self._fire_timers()
                continue
            started = self._start_next()
            ready = bool(self._order) and self._order[0].settled
            try:
                event = self._events.get(timeout=0 if started or ready else wait)
            except Empty:
                if ready and not started:
                    self._deliver(self._order.popleft())
                continue
            if event is _CANCEL:
                raise PipelineCancelledError
            if event is _FINISH:
                self._finished = True
            elif event is not _WAKE and not event.settled:
                self._on_done(event)

    @property
    def _is_empty(self) -> bool:
        return not (self._unsettled or self._order or self._waiting)

    def _start_next(self) -> bool:
        """Start one that waits, if there is room in flight; return whether there was."""
        if self._waiting is None or len(self._unsettled) >= self._most_in_flight:
            return False
        entry = self._waiting.take()
        if entry is None:
            return False
        self._counts.overtaken = self._waiting.overtaken
        self._start(entry)
        return True

    def _start(self, entry: Entry) -> None:
        self._counts.begun += 1
        timeout = self._function.timeout
        if timeout is not None:
            entry.late_at = time.monotonic() + timeout
        with self._lock:
            if self._cancelled:
                raise PipelineCancelledError
            was_idle = not self._unsettled
            self._unsettled[entry] = None
        if was_idle and timeout is not None and self._waiting is None:
            self._events.put(_WAKE)  # the emitter may be asleep with no timer set
        self._submit(entry)

    def _submit(self, entry: Entry) -> None:
        entry.attempts += 1
        try:
            future = self._function.submit(entry.record)
            if not isinstance(future, Future):
                raise TypeError(  # noqa: TRY301 - to be handled as any error of submit()
                    f"{type(self._function).__name__}.submit() must return a "
                    f"concurrent.futures.Future, not {future!r}"
                )
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the record's error
            future = Future()
            future.set_exception(error)
        entry.future = future
        future.add_done_callback(lambda _: self._events.put(entry))
        if self._cancelled or entry.settled:
            future.cancel()  # whoever cancelled or timed it out found no Future yet
        del future  # if submit() raised, its error's traceback leads to this frame

    def _on_done(self, entry: Entry) -> None:
        future = entry.future
        if future is None or not future.done():
            return  # the completion of an earlier attempt
        try:
            error = future.exception()
        except CancelledError as cancelled:
            error = cancelled
        retries_left = self._function.retries + 1 - entry.attempts
        if error is not None and getattr(error, "retryable", False) and retries_left > 0:
            function = self._function
            delay = full_jitter(function.retry_backoff, entry.attempts, function.retry_backoff_max)
            entry.future = None
            self._counts.retries += 1
            heapq.heappush(self._retries, (time.monotonic() + delay, next(self._tie_break), entry))
            return
        self._settle(entry, future.result() if error is None else None, error)

    def _settle(self, entry: Entry, result: Any, error: BaseException | None) -> None:
        entry.settled, entry.result, entry.error = True, result, error
        future, entry.future = entry.future, None  # they refer to each other: free both now
        if error is not None and future is not None:
            future.cancel()  # it came while its record was timed out
        with self._lock:
            self._unsettled.pop(entry, None)
        self._counts.settled += 1
        self._room.hold()
        if not self._function.ordered:
            self._deliver(entry)

    def _deliver(self, entry: Entry) -> None:
        if self._cancelled:  # a slow consumer must not be given all records that are settled
            raise PipelineCancelledError
        self._emit_outcome(entry)
        with self._marking:
            entry.emitted = True
            if entry.mark is not None:
                self._emit_mark(*entry.mark)
        self._room.leave(entry.size)

    def _emit_outcome(self, entry: Entry) -> None:
        error, output = entry.error, None
        if error is None:
            try:
                output = self._function.complete(entry.record, entry.result)
            except BaseException as caught:  # noqa: BLE001 - the policy decides what becomes of it
                error = caught
        if error is None:
            try:
                self._emit(output)
            finally:
                self._counts.ended += 1
        else:
            self._policy.handle(entry.record, error, entry.attempts)
            # Its traceback leads to this frame, and so to itself and the record: free all now.
            error = entry.error = None

    def _seconds_to_next_timer(self) -> float | None:
        due = self._retries[0][0] if self._retries else None
        if self._function.timeout is not None:
            with self._lock:
                oldest = next(iter(self._unsettled), None)
            if oldest is not None and oldest.late_at is not None:
                due = oldest.late_at if due is None else min(due, oldest.late_at)
        return None if due is None else max(0.0, due - time.monotonic())

    def _fire_timers(self) -> None:
        now = time.monotonic()
        timeout = self._function.timeout
        if timeout is not None:
            with self._lock:  # oldest first, and all have the same timeout
                late = list(takewhile(lambda e: (e.late_at or now) <= now, self._unsettled))
            for entry in late:
                if entry.future is not None and not entry.future.cancel():
                    self._on_done(entry)  # in time, only this thread was late
                if not entry.settled:
                    self._settle(entry, None, RecordTimeoutError(self._operator, timeout))
        while self._retries and self._retries[0][0] <= now:
            _, _, entry = heapq.heappop(self._retries)
            if not entry.settled:
                self._submit(entry)
