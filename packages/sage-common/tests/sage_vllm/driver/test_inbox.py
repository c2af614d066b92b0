"""Inbox: nothing that was handed over is lost, and nothing is accepted after the end."""

from __future__ import annotations

import threading

import pytest

from sage.common.components.sage_vllm.driver.engine_request import EngineRequest, to_generation
from sage.common.components.sage_vllm.driver.inbox import Cancelled, End, EngineDied, Inbox
from sage.common.components.sage_vllm.errors import EngineClosedError, EngineDeadError

CLOSED = EngineClosedError("test/model")


def request(name: str = "r1") -> EngineRequest:
    return EngineRequest(name, {}, None, to_generation)


def test_commands_come_out_in_their_order() -> None:
    inbox, first, second = Inbox(), request("a"), request("b")
    inbox.submit(first)
    inbox.tell(EngineDied(1))
    inbox.submit(second)
    assert first.future.cancel()
    taken = [inbox.take(wait=False) for _ in range(5)]
    assert taken == [first, EngineDied(1), second, Cancelled("a"), None]


def test_taking_can_wait_for_what_comes() -> None:
    inbox, late = Inbox(), request()
    threading.Timer(0.05, inbox.submit, (late,)).start()
    assert inbox.take(wait=True) is late


def test_the_end_returns_what_nobody_took_and_refuses_from_then_on() -> None:
    inbox = Inbox()
    left = [request("a"), request("b")]
    for each in left:
        inbox.submit(each)
    inbox.tell(End.NOW)
    assert inbox.end(CLOSED) == left
    assert inbox.end(EngineDeadError("test/model", "later")) == []
    assert inbox.ended is CLOSED
    with pytest.raises(EngineClosedError):
        inbox.submit(request())


def test_a_drain_ends_it_only_when_all_that_came_is_taken() -> None:
    inbox = Inbox()
    assert not inbox.end_if_drained(CLOSED)
    inbox.submit(request())
    inbox.tell(End.DRAINED)
    assert not inbox.end_if_drained(CLOSED)
    assert isinstance(inbox.take(wait=False), EngineRequest)
    assert inbox.take(wait=False) is End.DRAINED
    inbox.submit(request("meanwhile"))
    assert not inbox.end_if_drained(CLOSED)
    assert isinstance(inbox.take(wait=False), EngineRequest)
    assert inbox.end_if_drained(CLOSED)
    with pytest.raises(EngineClosedError):
        inbox.check_open()


def test_of_requests_that_race_with_the_end_each_is_taken_left_or_refused() -> None:
    for _ in range(30):
        inbox, barrier = Inbox(), threading.Barrier(5)
        refused: list[str] = []

        def submit(
            name: str,
            inbox: Inbox = inbox,
            barrier: threading.Barrier = barrier,
            refused: list[str] = refused,
        ) -> None:
            barrier.wait()
            for n in range(20):
                try:
                    inbox.submit(request(f"{name}{n}"))
                except EngineClosedError:
                    refused.append(f"{name}{n}")

        threads = [threading.Thread(target=submit, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        barrier.wait()
        taken = [found for _ in range(20) if (found := inbox.take(wait=False)) is not None]
        left = inbox.end(CLOSED)
        for thread in threads:
            thread.join()
        assert len(taken) + len(left) + len(refused) == 80
        assert inbox.take(wait=False) is None
