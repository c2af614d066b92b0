"""A service whose models are served by several engines."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing import SleepingEngine, write_echo_model
from sage.common.model_registry import import_model


@pytest.fixture
def echo_root(tmp_path: Path) -> Path:
    import_model("test/echo", write_echo_model(tmp_path / "echo"), root=tmp_path / "registry")
    return tmp_path / "registry"


class Kept:
    """Builds SleepingEngines and keeps them, so that a test can have one die."""

    def __init__(self) -> None:
        self.engines: list[SleepingEngine] = []

    def __call__(self, spec: EngineSpec) -> SleepingEngine:
        # Away until a test has it come back.
        self.engines.append(SleepingEngine(spec, step_seconds=0.002, rebuild_seconds=600))
        return self.engines[-1]


def service(root: Path, factory: Any, **settings: Any) -> VLLMService:
    config = {"model_id": "test/echo", "model_root": root, **settings}
    return VLLMService(config, engine_factory=factory)


def test_a_death_degrades_it_and_loses_nothing(echo_root: Path) -> None:
    factory = Kept()
    with service(echo_root, factory, replicas=3) as served:
        assert len(factory.engines) == 3
        assert served.capacity == 2 * 3 * factory.engines[0].info.max_batch_size
        prompts = [f"prompt {n} and some more words" for n in range(200)]
        future = served.generate_async(prompts)
        time.sleep(0.02)
        factory.engines[1].die()
        health = served.health()
        assert health["state"] == "degraded"
        assert health["engines"]["text"]["replicas"].count("recovering") == 1
        assert [result["text"] for result in future.result(60)] == prompts
        factory.engines[1].come_back()
        assert served.health()["state"] == "ready"
        assert served.health()["engines"]["text"]["restarts"] == 1
        assert served.stats()["requests_done"] == 200


def test_an_entry_of_the_table_has_replicas_of_its_own(echo_root: Path) -> None:
    factory = Kept()
    models = {"judge": {"model_id": "test/echo", "replicas": 2}}
    with service(echo_root, factory, models=models) as served:
        (result,) = served.generate("is it so", model="judge")
        assert result["text"] == "is it so"
        assert len(factory.engines) == 3
        assert served.health()["engines"]["judge"]["replicas"] == ["ready", "ready"]
        assert "replicas" not in served.health()["engines"]["text"]


def test_a_switch_keeps_the_number(echo_root: Path, tmp_path: Path) -> None:
    import_model("test/other", write_echo_model(tmp_path / "other"), root=echo_root)
    factory = Kept()
    with service(echo_root, factory, replicas=2) as served:
        served.switch_model("test/other")
        assert len(factory.engines) == 4
        assert served.health()["engines"]["text"]["replicas"] == ["ready", "ready"]
        assert [engine.state for engine in factory.engines[:2]] == ["closed", "closed"]


def test_a_replica_that_cannot_be_built_takes_the_others_with_it(echo_root: Path) -> None:
    built: list[SleepingEngine] = []

    def factory(spec: EngineSpec) -> SleepingEngine:
        if len(built) == 2:
            raise ValueError("no room for a third")
        built.append(SleepingEngine(spec))
        return built[-1]

    with pytest.raises(ValueError, match="no room for a third"):
        service(echo_root, factory, replicas=3).open()
    assert [engine.state for engine in built] == ["closed", "closed"]


@pytest.mark.parametrize("value", [0, -1, 1.5, "two", True, None])
def test_what_is_no_number_of_replicas_is_refused(echo_root: Path, value: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"replicas must be a whole number.*'auto'"):
        service(echo_root, SleepingEngine, replicas=value)
    models = {"judge": {"model_id": "test/echo", "replicas": value}}
    with pytest.raises(InvalidOptionError, match=r"models\.judge\.replicas must be"):
        service(echo_root, SleepingEngine, models=models)


def test_many_threads_and_two_deaths(echo_root: Path) -> None:
    factory = Kept()
    with service(echo_root, factory, replicas=4) as served:
        texts: dict[int, str] = {}

        def call(number: int) -> None:
            for turn in range(10):
                prompt = f"caller {number} turn {turn}"
                texts[10 * number + turn] = served.generate(prompt)[0]["text"]

        threads = [threading.Thread(target=call, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        factory.engines[0].die()
        factory.engines[3].die()
        while "sage-_move" in {thread.name for thread in threading.enumerate()}:
            time.sleep(0.01)  # the dead ones' calls go to the others
        for number in (0, 3):
            factory.engines[number].come_back()
        for thread in threads:
            thread.join()
        assert texts == {
            10 * number + turn: f"caller {number} turn {turn}"
            for number in range(50)
            for turn in range(10)
        }
        assert served.stats()["requests_done"] == 500
        assert served.stats()["in_flight"] == 0


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="each replica needs a core")
def test_one_of_two_engines_is_killed(model_root: Path) -> None:
    """Real engines: the text is as of an engine alone, and the killed one comes back."""
    config = {
        "model_id": "test/tiny-chat",
        "model_root": model_root,
        "replicas": 2,
        "engine": {"kv_cache_memory_bytes": 64 << 20, "dtype": "float32"},
        "sampling": {"temperature": 0, "max_tokens": 48},
    }
    prompts = [f"Once there was a number {n}" for n in range(60)]
    with VLLMService(config) as served:
        undisturbed = [result["text"] for result in served.generate(prompts)]
        engine = served._engines.engine(served._engines.table.configured[0].role)
        victim = engine._engines[0]._driver._runtime._processes[0]  # type: ignore[union-attr]
        future = served.generate_async(prompts)
        time.sleep(0.05)
        os.kill(victim.pid, signal.SIGKILL)
        results = future.result(240)
        assert [result["text"] for result in results] == undisturbed
        until = time.monotonic() + 240
        while not (health := served.health()["engines"]["text"])["restarts"]:  # or it is not known
            assert time.monotonic() < until
            time.sleep(0.1)
        assert health["restarts"] == 1
        while health["replicas"] != ["ready", "ready"]:
            assert time.monotonic() < until
            time.sleep(0.1)
            health = served.health()["engines"]["text"]
    assert not [each for each in multiprocessing.active_children() if "EngineCore" in each.name]
