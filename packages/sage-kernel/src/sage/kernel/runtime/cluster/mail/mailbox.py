"""Mailbox: calls to a process of the cluster, many in each message, and the results of all.

A call of a cluster's own costs a fraction of a millisecond of this process's time, and most calls
of a service last no longer. So two calls carry them all. ``submit`` hands over what has gathered
since the last one was acknowledged, at once if nothing was. Where many have gathered they do not
wait for that: the process has them when it has gone through the batch before. One ``take`` is
always open, which returns all results that have gathered, or none after a heartbeat. So it is also
how the process says that it is alive.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from sage.kernel.runtime.alarms import Alarms
from sage.kernel.runtime.cluster.cluster import Remote
from sage.kernel.runtime.cluster.errors import RemoteUnavailableError
from sage.kernel.runtime.cluster.mail.messages import Message, take_batch

_AGAIN_AFTER = 0.025  # heartbeats, where a message was lost
_MANY = 32  # messages, which do not wait until the batch before them is acknowledged


class Mailbox:
    """This process's end; the Postbox is the other. Both callbacks may come on any thread.

    Args:
        remote: the process; its object has a Postbox's ``submit`` and ``take``.
        alarms: for what is to be tried again.
        heartbeat: seconds after which the process says that it has nothing to say.
        deliver: is given the messages that came, never two lots at once, and the latest report.
        died: is given the error, once, when the process is gone.
    """

    def __init__(
        self,
        remote: Remote,
        alarms: Alarms,
        *,
        heartbeat: float,
        deliver: Callable[[Mailbox, Sequence[Message], Any], None],
        died: Callable[[Mailbox, BaseException], None],
    ) -> None:
        self.remote = remote
        self.heard: float | None = None
        """When the process was heard of last; None before it is there."""
        self.begun = time.monotonic()
        self._alarms = alarms
        self._heartbeat = heartbeat
        self._again_after = _AGAIN_AFTER * heartbeat
        self._deliver = deliver
        self._died = died
        self._lock = threading.Lock()
        self._waiting: deque[Message] = deque()
        self._on_the_way: dict[int, bytes] = {}  # batches, by their numbers
        self._batches = 0
        self._received = 0
        self._closed = False

    def open(self) -> None:
        """Begin to listen."""
        self._take()

    def send(self, messages: Sequence[Message]) -> None:
        """Send messages, in order with those before; those to a process that is gone are lost."""
        with self._lock:
            self._waiting.extend(messages)
            batch = self._next_batch()
        self._submit(batch)

    def ask(self, method: str, heard: Callable[[Future[Any]], None]) -> None:
        """Call another method of the object, again where that was lost; ``heard`` gets the outcome.

        The method must be one that may be called twice.
        """

        def call() -> None:
            self.remote.call(method).add_done_callback(called)

        def called(done: Future[Any]) -> None:
            if self._closed:
                return
            if isinstance(done.exception(), RemoteUnavailableError):
                self._alarms.after(self._again_after, call)
                return
            if done.exception() is None:
                self.heard = time.monotonic()
            heard(done)

        call()

    def close(self) -> None:
        """Send and hear nothing any more."""
        with self._lock:
            self._closed = True
            self._waiting.clear()

    # -- there ------------------------------------------------------------------------------------

    def _next_batch(self) -> int | None:
        """Put what waits on its way, if it is time; return the batch's number. Under the lock."""
        most = 2 if len(self._waiting) >= _MANY else 1
        if self._closed or not self._waiting or len(self._on_the_way) >= most:
            return None
        self._batches += 1
        self._on_the_way[self._batches] = pickle.dumps(take_batch(self._waiting), 5)
        return self._batches

    def _submit(self, number: int | None) -> None:
        if number is not None:
            submitting = self.remote.call("submit", number, self._on_the_way[number])
            submitting.add_done_callback(partial(self._submitted, number))

    def _submitted(self, number: int, done: Future[Any]) -> None:
        if self._must_repeat(done, partial(self._submit, number)):
            return
        with self._lock:
            del self._on_the_way[number]
            batch = self._next_batch()
        self._submit(batch)

    # -- and back ---------------------------------------------------------------------------------

    def _take(self) -> None:
        taking = self.remote.call("take", self._received, self._heartbeat)
        taking.add_done_callback(self._took)

    def _took(self, done: Future[Any]) -> None:
        if self._must_repeat(done, self._take):
            return
        self.heard = time.monotonic()
        first, messages, report = pickle.loads(done.result())
        new = messages[self._received - first :]
        self._received += len(new)
        if not self._closed:
            self._deliver(self, new, report)
        if not self._closed:
            self._take()

    def _must_repeat(self, done: Future[Any], call: Callable[[], None]) -> bool:
        """Return whether a call did not succeed, after doing what follows from that."""
        if self._closed or done.cancelled():
            return True
        error = done.exception()
        if isinstance(error, RemoteUnavailableError):
            self._alarms.after(self._again_after, lambda: None if self._closed else call())
        elif error is not None:
            with self._lock:
                ended, self._closed = self._closed, True
            if not ended:
                self._died(self, error)
        return error is not None
