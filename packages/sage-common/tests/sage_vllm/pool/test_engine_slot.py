"""EngineSlot: calls reach the engine in it, wait for one, or are refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.engine_contract import Engine, EngineSpec
from sage.common.components.sage_vllm.errors import EngineClosedError
from sage.common.components.sage_vllm.pool.engine_slot import EngineSlot
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine


def echo(model_id: str = "test/echo") -> EchoEngine:
    return EchoEngine(EngineSpec(model_id=model_id, path=Path("none")))


def say(text: str = "hello") -> Callable[[Engine], Future[Any]]:
    return lambda engine: engine.submit(text, {})


def who(engine: Engine) -> Future[str]:
    engine.submit("who", {})  # raises if the engine is closed
    future: Future[str] = Future()
    future.set_result(engine.info.model_id)
    return future


def test_a_call_reaches_the_engine_in_the_slot_at_once() -> None:
    slot = EngineSlot("test/echo")
    slot.put(echo())
    assert slot.call(say("hi")).result(0).completions[0].text == "hi"


def test_calls_wait_in_order_for_an_engine() -> None:
    slot = EngineSlot("test/echo")
    order: list[str] = []

    def note(text: str) -> Callable[[Engine], Future[Any]]:
        def start(engine: Engine) -> Future[Any]:
            order.append(text)
            return engine.submit(text, {})

        return start

    waiting = [slot.call(note(f"{n}")) for n in range(5)]
    assert not any(future.done() for future in waiting)
    slot.put(echo())
    assert order == ["0", "1", "2", "3", "4"]
    assert [future.result(0).completions[0].text for future in waiting] == order


def test_what_starting_raises_is_the_callers_at_once_or_later() -> None:
    def start(_engine: Engine) -> Future[Any]:
        raise ValueError("a bad prompt")

    slot = EngineSlot("test/echo")
    early = slot.call(start)
    slot.put(echo())
    with pytest.raises(ValueError, match="a bad prompt"):
        early.result(0)
    with pytest.raises(ValueError, match="a bad prompt"):
        slot.call(start)


def test_a_call_that_is_cancelled_while_it_waits_is_never_started() -> None:
    started: list[Engine] = []
    slot = EngineSlot("test/echo")
    future = slot.call(lambda engine: started.append(engine) or Future())  # type: ignore[func-returns-value]  # append returns None
    assert future.cancel()
    slot.put(echo())
    assert started == []


def test_cancelling_a_call_that_has_waited_cancels_it_in_the_engine() -> None:
    inner: Future[Any] = Future()
    slot = EngineSlot("test/echo")
    outer = slot.call(lambda _engine: inner)
    slot.put(echo())
    assert outer.cancel()
    assert inner.cancelled()


def test_a_call_between_two_engines_is_taken_by_the_next() -> None:
    slot = EngineSlot("test/one")
    old, new = echo("test/one"), echo("test/other")
    slot.put(old)
    meanwhile = threading.Event()

    def start(engine: Engine) -> Future[str]:
        if engine is old and not meanwhile.is_set():  # replaced before the call is submitted
            meanwhile.set()
            assert slot.put(new) is old
            old.close()
        return who(engine)

    assert slot.call(start).result(0) == "test/other"


def test_an_engine_that_is_closed_in_the_slot_refuses() -> None:
    slot = EngineSlot("test/echo")
    engine = echo()
    slot.put(engine)
    engine.close()
    with pytest.raises(EngineClosedError):
        slot.call(say())


def test_calls_wait_again_when_the_engine_is_taken_out() -> None:
    slot = EngineSlot("test/one")
    old = echo("test/one")
    slot.put(old)
    assert slot.take_out() is old
    assert slot.take_out() is None
    waiting = slot.call(who)
    assert not waiting.done()
    slot.put(echo("test/other"))
    assert waiting.result(0) == "test/other"


def test_failing_those_that_wait_leaves_the_slot_open() -> None:
    slot = EngineSlot("test/echo")
    failed = slot.call(say())
    slot.fail_waiting(MemoryError("no room"))
    with pytest.raises(MemoryError, match="no room"):
        failed.result(0)
    later = slot.call(say())
    slot.put(echo())
    assert later.result(0)


@pytest.mark.parametrize("reason", [None, ValueError("it only embeds")])
def test_a_slot_that_refuses_does_so_for_good_and_with_its_first_reason(
    reason: Exception | None,
) -> None:
    slot = EngineSlot("test/echo")
    waiting = slot.call(say())
    slot.refuse(reason)
    slot.refuse(ValueError("another"))
    expected = EngineClosedError if reason is None else ValueError
    says = "test/echo" if reason is None else "it only embeds"
    for raising in (lambda: waiting.result(0), lambda: slot.call(say()), lambda: slot.put(echo())):
        with pytest.raises(expected, match=says):
            raising()


def test_no_call_is_lost_or_run_twice_while_engines_come_and_go() -> None:
    slot = EngineSlot("test/echo")
    stop = threading.Event()
    results: list[list[str]] = [[] for _ in range(8)]
    errors: list[BaseException] = []

    def call(number: int) -> None:
        for n in range(300):
            try:
                said = slot.call(say(f"{n}")).result(30)
            except BaseException as error:  # noqa: BLE001 - any at all is a failure
                errors.append(error)
                return
            results[number].append(said.completions[0].text)

    def replace() -> None:
        while not stop.is_set():
            if (old := slot.take_out()) is not None:
                old.close()
            old = slot.put(echo())
            new = echo()
            before = slot.put(new)
            if before is not None:
                before.close()

    callers = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    replacing = threading.Thread(target=replace)
    for thread in (replacing, *callers):
        thread.start()
    for caller in callers:
        caller.join(60)
    stop.set()
    replacing.join(10)
    assert errors == []
    assert results == [[f"{n}" for n in range(300)]] * 8


def test_calls_that_race_with_a_refusal_are_answered_or_refused() -> None:
    for _ in range(50):
        slot = EngineSlot("test/echo")
        slot.put(echo())
        slot.take_out()
        outcomes: list[str] = []
        barrier = threading.Barrier(3)

        def call(slot: EngineSlot = slot, outcomes: list[str] = outcomes) -> None:
            barrier.wait()  # noqa: B023 - all of this round
            try:
                slot.call(say()).result(10)
            except EngineClosedError:
                outcomes.append("refused")
            else:
                outcomes.append("answered")

        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()
        barrier.wait()
        slot.refuse()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        assert outcomes == ["refused", "refused"]
