"""Named models on real engines: three in room for two, one killed while another loads."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.driver.shared_engine import SharedEngine
from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.host.own_memory import own_memory
from sage.common.components.sage_vllm.planning.memory_check import InsufficientMemoryError
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import get_model_path, import_model

ENGINE = {"max_num_seqs": 64, "kv_cache_memory_bytes": 64 << 20, "dtype": "float32"}
SAMPLING = {"temperature": 0, "max_tokens": 3, "ignore_eos": True}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with three tiny models that say different things."""
    folder = tmp_path_factory.mktemp("three")
    for seed, name in enumerate("abc"):
        model = write_tiny_model(folder / name, seed=seed)
        import_model(f"test/{name}", model, root=folder / "registry")
    return folder / "registry"


def models(**facts: Any) -> dict[str, Any]:
    return {name: {"model_id": f"test/{name}", "engine": ENGINE, **facts} for name in "abc"}


def held(root: Path) -> int:
    """What an engine of one of the models holds by its plan."""
    path = get_model_path("test/a", root=root)
    return SharedEngine.plan(EngineSpec(model_id="test/a", path=path, arguments=ENGINE))[1]


def test_three_models_in_room_for_two_answer_600_records_in_rotation(three: Path) -> None:
    budget = int(2.5 * held(three))
    config = {
        "models": models(),
        "memory_budget": budget,
        "sampling": SAMPLING,
        "model_root": three,
    }
    before, most = own_memory(), 0
    with VLLMService(config) as service:
        slots = threading.Semaphore(128)
        futures = []
        for number in range(600):
            slots.acquire()
            name = "abc"[number % 3]
            future = service.generate_async(f"record {number // 3 % 4}", model=name)
            future.add_done_callback(lambda _: slots.release())
            futures.append(future)
            if number % 50 == 0:
                most = max(most, own_memory())
        texts: dict[tuple[str, int], set[str]] = {}
        for number, future in enumerate(futures):
            (answer,) = future.result(300)
            name = "abc"[number % 3]
            assert answer["model_id"] == f"test/{name}"
            texts.setdefault((name, number // 3 % 4), set()).add(answer["text"])
        stats = service.stats()["models"]
    assert sum(facts["loads"] for facts in stats.values()) <= 12
    assert sum("engine" in facts for facts in stats.values()) <= 2
    assert all(len(said) == 1 for said in texts.values())  # of each load the same
    assert len({next(iter(texts[name, 0])) for name in "abc"}) == 3
    assert most - before <= 1.1 * budget


def test_a_model_that_exceeds_the_budget_is_refused_with_what_would_do(three: Path) -> None:
    small = VLLMService({"models": models(), "memory_budget": "300MB", "model_root": three})
    with pytest.raises(InsufficientMemoryError, match=r"memory_budget is 300\.0 MB") as refused:
        small.open()
    assert refused.value.model_id == "test/a"
    needed = refused.value.settings[-1]
    assert needed.option == "memory_budget"
    enough = {"models": {"a": models()["a"]}, "memory_budget": needed.value, "model_root": three}
    with VLLMService(enough) as service:
        assert service.health()["models"] == {"a": "unloaded"}


def test_a_killed_engine_replays_its_calls_while_another_loads(
    three: Path, engine_processes: Callable[[], list[int]]
) -> None:
    config = {
        "models": models(engine_mode="process") | {"text": {**models()["a"], "preload": True}},
        "sampling": SAMPLING,
        "model_root": three,
    }
    with VLLMService(config) as service:
        (usual,) = service.generate("Hello", model="a", max_tokens=64)
        (process,) = engine_processes()
        long = [
            service.generate_async("Hello", model="a", max_tokens=64, priority=n) for n in range(8)
        ]
        loading = service.generate_async("Hello", model="b")
        os.kill(process, signal.SIGKILL)
        meanwhile = service.generate("Hello", model="text", max_tokens=64)[0]
        assert meanwhile["text"] == usual["text"]
        assert {future.result(300)[0]["text"] for future in long} == {usual["text"]}
        assert loading.result(300)[0]["model_id"] == "test/b"
        end = time.monotonic() + 240
        while (  # of a death that nobody knows of yet
            not service.stats()["models"]["a"]["restarts"] or service.health()["state"] != "ready"
        ):
            assert time.monotonic() < end
            time.sleep(0.01)
        facts = service.stats()["models"]
        assert (facts["a"]["restarts"], facts["text"]["restarts"]) == (1, 0)
        assert len(engine_processes()) == 2
    assert engine_processes() == []
