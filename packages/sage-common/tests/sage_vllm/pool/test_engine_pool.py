"""EnginePool: loading, switching with a way back, and closing in the middle of each phase."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.engine_contract import Engine, Role
from sage.common.components.sage_vllm.errors import EngineClosedError, EngineStartError
from sage.common.components.sage_vllm.planning.memory_check import InsufficientMemoryError
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.core.background import in_background
from sage.common.model_registry.vllm_registry import (
    ModelNotFoundError,
    get_model_path,
)

MakePool = Callable[..., EnginePool]


def ask(pool: EnginePool, prompt: str = "hello") -> Future[Any]:
    """Start a call; its result is the model that answers."""

    def start(engine: Engine) -> Future[Any]:
        answered: Future[Any] = Future()
        model_id = engine.info.model_id

        def settle(done: Future[Any]) -> None:
            if (error := done.exception()) is not None:
                answered.set_exception(error)
            else:
                answered.set_result(model_id)

        engine.submit(prompt, {}).add_done_callback(settle)
        return answered

    return pool.call(Role.GENERATE, start)


def embedder(pool: EnginePool) -> Future[Any]:
    def start(engine: Engine) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(engine.info.model_id)
        return future

    return pool.call(Role.EMBED, start)


# -- states ---------------------------------------------------------------------------------------


def test_a_pool_is_closed_then_loads_then_is_ready(make_pool: MakePool, machine: Any) -> None:
    pool = make_pool()
    assert pool.state == "closed"
    machine.hold("building")
    opening = in_background(pool.open)
    machine.until("building")
    assert pool.state == "loading"
    early = ask(pool)
    assert not early.done()
    machine.let("building")
    opening.result(60)
    assert pool.state == "ready"
    assert early.result(60) == "test/one"
    pool.close()
    pool.close()
    assert pool.state == "closed"
    assert machine.alive == []
    with pytest.raises(EngineClosedError):
        ask(pool)


@pytest.mark.parametrize(
    ("model_id", "error"), [("test/absent", ModelNotFoundError), ("test/broken", RuntimeError)]
)
def test_a_pool_that_cannot_load_has_failed_and_says_why(
    make_pool: MakePool, machine: Any, model_id: str, error: type[Exception]
) -> None:
    pool = make_pool(embedding_model_id=model_id)
    with pytest.raises(error, match=model_id):
        pool.open()
    assert pool.state == "failed"
    assert model_id in pool.health()["last_error"]
    pool.close()
    assert pool.state == "failed"
    assert machine.alive == []


def test_the_state_is_that_of_the_engine_that_is_worst_off(
    make_pool: MakePool, machine: Any
) -> None:
    pool = make_pool(embedding_model_id="test/vectors")
    pool.open()
    text, embedding = machine.alive
    for worst, states in (
        ("ready", ("ready", "ready")),
        ("recovering", ("ready", "recovering")),
        ("failed", ("failed", "recovering")),
    ):
        text.now, embedding.now = states
        assert pool.state == worst
        assert pool.health()["engines"]["text"]["state"] == states[0]
    pool.close()


def test_a_pool_that_only_embeds_refuses_to_generate(make_pool: MakePool) -> None:
    pool = make_pool(model_id=None, embedding_model_id="test/vectors")
    pool.open()
    with pytest.raises(ValueError, match="only embeds"):
        ask(pool)
    assert embedder(pool).result(60) == "test/vectors"
    with pytest.raises(ValueError, match="only embeds"):
        pool.switch("test/other")
    pool.close()


def test_a_model_is_loaded_from_the_first_of_its_build_to_the_end_of_its_engine(
    make_pool: MakePool, machine: Any, root: Path
) -> None:
    one, other = (get_model_path(f"test/{name}", root=root) for name in ("one", "other"))
    pool = make_pool()
    pool.open()
    assert pool.is_loaded(one)
    assert not pool.is_loaded(other)
    machine.hold("building")
    switching = in_background(pool.switch, "test/other")
    machine.until("building")
    assert pool.is_loaded(one)
    assert pool.is_loaded(other)
    machine.let("building")
    switching.result(60)
    assert not pool.is_loaded(one)
    assert pool.is_loaded(other)
    pool.close()


# -- switching ------------------------------------------------------------------------------------


def test_the_old_engine_serves_until_the_new_one_does_and_then_finishes(
    make_pool: MakePool, machine: Any
) -> None:
    pool = make_pool()
    pool.open()
    (old,) = machine.alive
    held = ask(pool, "hold this")
    machine.hold("building")
    machine.hold("draining")
    switching = in_background(pool.switch, "test/other")
    machine.until("building")
    assert pool.state == "switching"
    assert ask(pool).result(60) == "test/one"
    machine.let("building")
    machine.until("draining")
    assert ask(pool).result(60) == "test/other"
    assert not held.done()
    machine.let("draining")
    old.let_go()
    switching.result(60)
    assert held.result(60) == "test/one"
    assert pool.state == "ready"
    assert [engine.info.model_id for engine in machine.alive] == ["test/other"]
    pool.close()


def test_a_switch_to_what_is_loaded_does_nothing_unless_it_has_died(
    make_pool: MakePool, machine: Any
) -> None:
    pool = make_pool()
    pool.open()
    pool.switch("test/one")
    assert len(machine.built) == 1
    machine.alive[0].now = "failed"
    pool.switch("test/one")
    assert len(machine.built) == 2
    assert pool.state == "ready"
    pool.close()


@pytest.mark.parametrize(
    ("model_id", "error"),
    [
        ("test/absent", ModelNotFoundError),
        ("test/broken", RuntimeError),
        ("test/mute", EngineStartError),
    ],
)
def test_a_switch_that_fails_leaves_the_old_engine(
    make_pool: MakePool, machine: Any, model_id: str, error: type[Exception]
) -> None:
    pool = make_pool()
    pool.open()
    (old,) = machine.alive
    with pytest.raises(error, match=model_id):
        pool.switch(model_id)
    assert machine.alive == [old]
    assert pool.state == "ready"
    assert ask(pool).result(60) == "test/one"
    assert model_id in pool.health()["last_error"]
    pool.close()


@pytest.mark.parametrize("model_id", ["test/broken", "test/mute"])
def test_without_room_for_two_a_switch_that_fails_builds_the_old_engine_again(
    make_pool: MakePool, machine: Any, model_id: str
) -> None:
    machine.free_for = 1
    pool = make_pool()
    pool.open()
    (first,) = machine.alive
    with pytest.raises((RuntimeError, EngineStartError), match=model_id):
        pool.switch(model_id)
    (again,) = machine.alive
    assert again is not first
    assert again.spec == first.spec
    assert ask(pool).result(60) == "test/one"
    assert pool.state == "ready"
    pool.switch("test/other")
    assert ask(pool).result(60) == "test/other"
    pool.close()


def test_without_room_for_two_calls_wait_between_the_engines(
    make_pool: MakePool, machine: Any
) -> None:
    machine.free_for = 1
    pool = make_pool()
    pool.open()
    (old,) = machine.alive
    held = ask(pool, "hold this")
    machine.hold("draining")
    machine.hold("building")
    switching = in_background(pool.switch, "test/other")
    machine.until("draining")
    waiting = ask(pool)
    machine.let("draining")
    old.let_go()
    machine.until("building")
    assert held.result(60) == "test/one"
    assert not waiting.done()
    machine.let("building")
    switching.result(60)
    assert waiting.result(60) == "test/other"
    pool.close()


def test_when_not_even_the_old_engine_can_be_built_again_the_pool_has_failed(
    make_pool: MakePool, machine: Any
) -> None:
    machine.free_for = 1
    pool = make_pool()
    pool.open()
    machine.broken.add("test/one")
    machine.hold("draining")
    switching = in_background(pool.switch, "test/broken")
    machine.until("draining")
    waiting = ask(pool)
    machine.let("draining")
    with pytest.raises(RuntimeError, match="test/broken is broken") as failed:
        switching.result(60)
    assert "test/one could not be loaded again either" in failed.value.__notes__[0]
    assert pool.state == "failed"
    with pytest.raises(RuntimeError, match="test/one is broken"):
        waiting.result(60)
    with pytest.raises(RuntimeError, match="test/one is broken"):
        ask(pool)
    with pytest.raises(RuntimeError, match="test/one is broken"):
        pool.switch("test/other")
    pool.close()


def test_a_model_that_would_not_fit_in_the_old_ones_place_leaves_it_alone(
    make_pool: MakePool, machine: Any
) -> None:
    machine.free_for = 1
    machine.sizes["test/other"] = 150
    pool = make_pool()
    pool.open()
    (old,) = machine.alive
    with pytest.raises(InsufficientMemoryError, match="test/other"):
        pool.switch("test/other")
    assert machine.alive == [old]
    assert ask(pool).result(60) == "test/one"
    pool.close()


def test_switches_at_once_come_one_after_the_other(make_pool: MakePool, machine: Any) -> None:
    pool = make_pool()
    pool.open()
    names = ["test/other", "test/third", "test/one"] * 5
    switches = [in_background(pool.switch, name) for name in names]
    asked = [ask(pool).result(60) for _ in range(200)]
    for switch in switches:
        switch.result(60)
    assert set(asked) <= set(names)
    assert len(machine.alive) == 1
    assert pool.state == "ready"
    pool.close()
    assert machine.alive == []


# -- the fallback for embedding -------------------------------------------------------------------


def test_the_text_model_embeds_where_there_is_no_other_and_follows_a_switch(
    make_pool: MakePool, machine: Any
) -> None:
    pool = make_pool()
    pool.open()
    calls = [embedder(pool) for _ in range(10)]
    assert {call.result(60) for call in calls} == {"test/one"}
    assert [spec.role for spec in machine.built] == ["generate", "embed"]
    pool.switch("test/other")
    assert len(machine.alive) == 1
    assert embedder(pool).result(60) == "test/other"
    pool.close()


def test_a_fallback_that_cannot_be_built_fails_those_who_wait_and_is_tried_again(
    make_pool: MakePool, machine: Any
) -> None:
    machine.free_for = 1
    pool = make_pool()
    pool.open()
    with pytest.raises(InsufficientMemoryError, match="test/one"):
        embedder(pool).result(60)
    machine.free_for = 2
    assert embedder(pool).result(60) == "test/one"
    pool.close()


# -- closing in the middle ------------------------------------------------------------------------


def test_closing_while_the_first_engine_is_built(make_pool: MakePool, machine: Any) -> None:
    machine.hold("building")
    pool = make_pool()
    opening = in_background(pool.open)
    machine.until("building")
    waiting = ask(pool)
    closing = in_background(pool.close)
    with pytest.raises(EngineClosedError):
        waiting.result(60)  # before the engine is built
    machine.let("building")
    closing.result(60)
    with pytest.raises(EngineClosedError):
        opening.result(60)
    assert machine.alive == []


@pytest.mark.parametrize("room", [1, 2])
@pytest.mark.parametrize("phase", ["building", "draining"])
def test_closing_in_the_middle_of_a_switch(
    make_pool: MakePool, machine: Any, room: int, phase: str
) -> None:
    machine.free_for = room
    pool = make_pool()
    pool.open()
    held = ask(pool, "hold this") if phase == "draining" else None
    machine.hold(phase)
    switching = in_background(pool.switch, "test/other")
    machine.until(phase)
    closing = in_background(pool.close)
    until_closed(pool)
    machine.let(phase)
    closing.result(60)
    assert switching.exception(60) is None or isinstance(switching.exception(), EngineClosedError)
    if held is not None:
        with pytest.raises(EngineClosedError):
            held.result(60)
    assert machine.alive == []
    assert pool.state == "closed"
    with pytest.raises(EngineClosedError):
        ask(pool)


def test_closing_while_the_fallback_is_built(make_pool: MakePool, machine: Any) -> None:
    pool = make_pool()
    pool.open()
    machine.hold("building")
    waiting = embedder(pool)
    machine.until("building")
    closing = in_background(pool.close)
    with pytest.raises(EngineClosedError):
        waiting.result(60)
    machine.let("building")
    closing.result(60)
    assert machine.alive == []


def until_closed(pool: EnginePool) -> None:
    """Wait until no call is accepted: what is in the middle of a phase goes on after that."""
    for _ in range(10_000):
        if pool.state == "closed":
            return
        threading.Event().wait(0.001)
    pytest.fail("the pool was not closed")
