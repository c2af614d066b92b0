"""All engines freed for a while: calls wait, deadlines count, and everything is there again."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.engine_contract import Role
from sage.common.components.sage_vllm.errors import EngineClosedError
from sage.common.components.sage_vllm.fine_tuning import FineTuneRequestError
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing import EchoEngine
from sage.common.core.background import in_background

MakePool = Callable[..., EnginePool]


def ask(pool: EnginePool, prompt: str = "hello") -> Any:
    return pool.call(Role.GENERATE, lambda engine: engine.submit(prompt, {}))


def test_engines_are_freed_and_built_again_for_those_who_waited(
    make_pool: MakePool, machine: Any
) -> None:
    pool = make_pool(embedding_model_id="test/vectors")
    pool.open()
    with pool.places.freed():
        assert (pool.state, machine.alive) == ("paused", [])
        waiting = [ask(pool) for _ in range(3)]
        assert not any(call.done() for call in waiting)
    assert [call.result(60).completions[0].text for call in waiting] == ["hello"] * 3
    assert pool.state == "ready"
    assert [engine.spec.model_id for engine in machine.alive] == ["test/one", "test/vectors"]
    pool.close()


def test_calls_in_flight_are_finished_first_and_pauses_take_turns(
    make_pool: MakePool, machine: Any
) -> None:
    pool = make_pool()
    pool.open()
    call, (engine,) = ask(pool, "hold on"), machine.alive
    machine.hold("draining")

    def pause(name: str) -> str:
        with pool.places.freed():
            assert machine.alive == []
            return name

    pauses = [in_background(pause, name) for name in ("one", "two")]
    machine.until("draining")
    assert not call.done()
    machine.let("draining")
    engine.let_go()
    assert call.result(60)
    assert [each.result(60) for each in pauses] == ["one", "two"]
    assert (pool.state, len(machine.built)) == ("ready", 3)
    pool.close()


def test_a_pool_that_is_closed_meanwhile_stays_closed(make_pool: MakePool, machine: Any) -> None:
    pool = make_pool()
    pool.open()
    with pool.places.freed():
        waiting = ask(pool)
        pool.close()
        with pytest.raises(EngineClosedError):
            waiting.result(60)
    assert (pool.state, machine.alive) == ("closed", [])


def test_a_switch_meanwhile_says_what_is_built_afterwards(
    make_pool: MakePool, machine: Any
) -> None:
    pool = make_pool()
    pool.open()
    with pool.places.freed():
        pool.switch("test/other")
        waiting = ask(pool)
    assert waiting.result(60)
    assert [engine.spec.model_id for engine in machine.alive] == ["test/other"]
    pool.close()


def test_an_engine_that_cannot_be_built_again_fails_its_calls(
    make_pool: MakePool, machine: Any
) -> None:
    pool = make_pool()
    pool.open()
    with pool.places.freed():
        waiting = ask(pool)
        machine.broken.add("test/one")
    with pytest.raises(RuntimeError, match="test/one is broken"):
        waiting.result(60)
    assert pool.state == "failed"
    assert "is broken" in pool.health()["last_error"]
    pool.close()


# -- a fine-tuning in the engines' place --------------------------------------------------------


@pytest.fixture
def tuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A backend that is installed, and does in its ``during`` what a test wants."""
    site = tmp_path / "site"
    metadata = site / "pause_tuner-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "pause_tuner.py").write_text("def train(request):\n    return {'saw': during()}\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pause-tuner\nVersion: 1.0\n")
    entry = "[sage.fine_tuning]\nlora = pause_tuner:train\n"
    (metadata / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(site)
    return importlib.import_module("pause_tuner")


def test_a_fine_tuning_can_have_the_engines_wait(root: Path, tuner: Any, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": "a"}) + "\n")
    request = {
        "base_model": "test/one",
        "dataset_path": tmp_path / "data.jsonl",
        "output_dir": tmp_path / "job",
        "strategy": "lora",
        "while_training": "pause",
    }
    asked: list[Any] = []
    config = {"model_id": "test/one", "model_root": root}
    with VLLMService(config, engine_factory=EchoEngine) as service:

        def during() -> Any:
            asked.append(service.generate_async("hello"))
            asked.append(service.generate_async("soon", deadline=0.05))
            (late,) = asked[1].result(60)
            return service.health()["state"], asked[0].done(), late["finish_reason"]

        tuner.during = during
        assert service.fine_tune(request) == {"saw": ("paused", False, "deadline")}
        assert asked[0].result(60)[0]["text"] == "hello"
        loads = service.stats()["models"]["text"]["loads"]
        with pytest.raises(FineTuneRequestError, match="did you mean 'pause'"):
            service.fine_tune({**request, "while_training": "paus"})
        with pytest.raises(FineTuneRequestError, match="'strategy' is missing"):
            service.fine_tune({key: request[key] for key in request if key != "strategy"})
        tuner.during = lambda: service.health()["state"]
        assert service.fine_tune({**request, "while_training": "serve"}) == {"saw": "ready"}
        assert service.stats()["models"]["text"]["loads"] == loads == 2
