"""Postbox: where a process of the cluster gets its messages, and leaves its own."""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from sage.kernel.runtime.cluster.mail.messages import Message, take_batch


class Postbox:
    """The process's end; the Mailbox is the other.

    Each batch and each message has a number, so nothing is lost and nothing done twice where a call
    or its answer is: it is just made again.

    Args:
        receive: called with each message that comes, in order; must not wait.
        report: returns what goes with each ``take``: something small, as data.
    """

    def __init__(self, receive: Callable[[Message], None], report: Callable[[], Any]) -> None:
        self._receive = receive
        self._report = report
        self._receiving = threading.Lock()
        self._received = 0  # batches
        self._early: dict[int, bytes] = {}  # batches that came before the one before them
        self._changed = threading.Condition()
        self._outbox: deque[Message] = deque()
        self._kept: deque[Message] = deque()  # taken, and perhaps not arrived
        self._taken = 0  # messages before those that are kept
        self._closed = False

    def submit(self, number: int, batch: bytes) -> int:
        """Receive a batch, in its turn, unless it came before; return its number."""
        with self._receiving:
            if number > self._received:
                self._early[number] = batch
            while (following := self._early.pop(self._received + 1, None)) is not None:
                self._received += 1
                for message in pickle.loads(following):
                    self._receive(message)
        return number

    def post(self, message: Message) -> None:
        """Leave a message for whoever takes next."""
        with self._changed:
            self._outbox.append(message)
            self._changed.notify_all()

    def take(self, received: int, seconds: float) -> bytes:
        """Return the messages that are there after the first ``received``, or wait for some.

        After so many seconds it returns none. They are kept until a later call says that they
        arrived.
        """
        with self._changed:
            while self._kept and self._taken < received:
                self._kept.popleft()
                self._taken += 1
            if not self._kept:
                self._changed.wait_for(lambda: self._outbox or self._closed, seconds)
                self._kept.extend(take_batch(self._outbox))
            first, batch = self._taken, list(self._kept)
        return pickle.dumps((first, batch, self._report()), 5)

    def close(self) -> None:
        """Have those who wait return."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
