"""Questions: what a process of the cluster asks of the services here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from sage.kernel.runtime.cluster.mail.carriage import error_outcome, from_bytes, outcome_of
from sage.kernel.runtime.cluster.mail.mailbox import Mailbox
from sage.kernel.runtime.cluster.mail.messages import Message

Ask = Callable[..., Any]
"""Answers a question: is given its name and arguments, and returns a result or a Future of it."""


class Questions:
    """Has the questions of one process answered, until it is gone.

    Its messages come one lot after the other; answers come on any thread.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._open: dict[int, Future[Any]] = {}
        self._closed = False

    def take(self, mailbox: Mailbox, messages: Sequence[Message]) -> None:
        """Have the questions among some messages answered; the answers go to ``mailbox``."""
        for kind, number, data in messages:
            if kind == "ask":
                self._answer(mailbox, number, data)
            elif kind == "unask" and (asked := self._open.get(number)) is not None:
                asked.cancel()

    def close(self) -> None:
        """Cancel those that are not answered yet: nobody waits for them any more."""
        self._closed = True
        for asked in list(self._open.values()):
            asked.cancel()

    def _answer(self, mailbox: Mailbox, number: int, question: bytes) -> None:
        try:
            what, args, kwargs = from_bytes(question)
            asked = self._ask(what, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
            mailbox.send([("answer", number, error_outcome(error))])
            return
        if not isinstance(asked, Future):
            result, asked = asked, Future()
            asked.set_result(result)
        self._open[number] = asked
        asked.add_done_callback(partial(self._send, mailbox, number))
        if self._closed:
            asked.cancel()

    def _send(self, mailbox: Mailbox, number: int, done: Future[Any]) -> None:
        self._open.pop(number, None)
        if not done.cancelled():
            mailbox.send([("answer", number, outcome_of(done, "a service"))])
