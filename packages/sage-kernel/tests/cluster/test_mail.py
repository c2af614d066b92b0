"""Batches of messages between a Mailbox and a Postbox: in order and once, whatever is lost."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from sage.kernel.runtime.alarms import Alarms
from sage.kernel.runtime.cluster.errors import RemoteUnavailableError
from sage.kernel.runtime.cluster.mail.mailbox import Mailbox
from sage.kernel.runtime.cluster.mail.messages import Message
from sage.kernel.runtime.cluster.mail.postbox import Postbox


class Wire:
    """A Remote whose submits arrive when the test says so; it has no takes."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.postbox = Postbox(lambda message: self.received.append(message[1]), lambda: None)
        self.open: list[tuple[tuple[int, bytes], Future[Any]]] = []

    def call(self, method: str, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if method == "submit":
            self.open.append((args, future))  # type: ignore[arg-type]  # a number and a batch
        return future

    def arrive(self, place: int = 0) -> Future[Any]:
        """Have one of the submits that are open arrive; return what its answer completes."""
        args, future = self.open.pop(place)
        assert self.postbox.submit(*args) == args[0]
        return future

    def kill(self) -> None:
        """Do nothing."""


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def mailbox(wire: Wire) -> Mailbox:
    def refuse(*_: object) -> None:
        raise AssertionError

    return Mailbox(wire, Alarms("test"), heartbeat=1.0, deliver=refuse, died=refuse)


def messages(first: int, count: int) -> Sequence[Message]:
    return [("call", number, b"") for number in range(first, first + count)]


def test_few_messages_wait_for_the_batch_before_them(wire: Wire, mailbox: Mailbox) -> None:
    for number in range(10):
        mailbox.send(messages(number, 1))
    assert len(wire.open) == 1
    wire.arrive().set_result(1)
    assert len(wire.open) == 1
    wire.arrive().set_result(2)
    assert wire.received == list(range(10))
    assert not wire.open


def test_many_messages_do_not_wait_for_the_batch_before_them(wire: Wire, mailbox: Mailbox) -> None:
    mailbox.send(messages(0, 1))
    mailbox.send(messages(1, 100))
    mailbox.send(messages(101, 100))
    assert len(wire.open) == 2  # not a third
    wire.arrive().set_result(1)
    assert len(wire.open) == 2
    wire.arrive().set_result(2)
    wire.arrive().set_result(3)
    assert wire.received == list(range(201))


def test_a_batch_that_overtakes_waits_for_its_turn(wire: Wire, mailbox: Mailbox) -> None:
    mailbox.send(messages(0, 5))
    mailbox.send(messages(5, 100))
    wire.arrive(1).set_result(2)
    assert wire.received == []
    wire.arrive().set_result(1)
    assert wire.received == list(range(105))


def test_what_is_lost_on_its_way_or_back_is_made_again_and_done_once(
    wire: Wire, mailbox: Mailbox
) -> None:
    mailbox.send(messages(0, 1))
    mailbox.send(messages(1, 100))
    answered = wire.arrive()
    _, lost = wire.open.pop()
    for future in (answered, lost):
        future.set_exception(RemoteUnavailableError("lost"))
    while len(wire.open) < 2:  # they are tried again a little later
        pass
    wire.arrive().set_result(None)
    wire.arrive().set_result(None)
    assert wire.received == list(range(101))
    mailbox.send(messages(101, 1))
    wire.arrive().set_result(None)
    assert wire.received == list(range(102))
