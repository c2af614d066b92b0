"""Switching the text model of a service that is in use, on real engines."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.driver.shared_engine import SharedEngine
from sage.common.components.sage_vllm.engine_contract import Engine, EngineSpec
from sage.common.components.sage_vllm.errors import EngineError
from sage.common.components.sage_vllm.planning.memory_check import Fit, InsufficientMemoryError
from sage.common.components.sage_vllm.planning.memory_estimate import estimate_memory
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import ModelNotFoundError, import_model

ONE, OTHER = "test/tiny-chat", "test/tiny-base"
ENGINE = {"max_num_seqs": 16, "kv_cache_memory_bytes": 64 << 20, "dtype": "float32"}


@pytest.fixture
def service(model_root: Path) -> Iterator[VLLMService]:
    config = {
        "model_id": ONE,
        "model_root": model_root,
        "engine": ENGINE,
        "sampling": {"temperature": 0, "max_tokens": 8},
    }
    with VLLMService(config) as opened:
        yield opened


def test_two_hundred_callers_see_whole_results_of_one_model_or_the_other(
    service: VLLMService,
) -> None:
    prompts = [f"prompt number {n}" for n in range(200)]
    expected = {ONE: _texts(service, prompts)}
    service.switch_model(OTHER)
    expected[OTHER] = _texts(service, prompts)
    assert expected[ONE] != expected[OTHER]
    done = threading.Event()
    failures: list[object] = []
    seen: set[str] = set()

    def call(prompt: str) -> None:
        while not done.is_set():
            try:
                (result,) = service.generate(prompt)
            except Exception as error:  # noqa: BLE001 - any at all is a failure
                failures.append(error)
                return
            seen.add(result["model_id"])
            if result["text"] != expected[result["model_id"]][prompt]:
                failures.append((prompt, result))

    callers = [threading.Thread(target=call, args=(prompt,)) for prompt in prompts]
    for caller in callers:
        caller.start()
    for _ in range(5):
        assert service.switch_model(ONE)["model_id"] == ONE
        assert service.switch_model(OTHER)["model_id"] == OTHER
    done.set()
    for caller in callers:
        caller.join()
    assert failures == []
    assert seen == {ONE, OTHER}
    assert service.health() == {
        "state": "ready",
        "engines": {"text": {"model_id": OTHER, "state": "ready", "restarts": 0}},
        "models": {"text": "ready"},
        "last_error": None,
    }


class OneAtATime:
    """Builds real engines, and says there is no memory for a second one beside the first."""

    def __init__(self) -> None:
        self.alive: Engine | None = None
        self.hold: threading.Event | None = None  # what building waits for

    def __call__(self, spec: EngineSpec) -> Engine:
        if self.alive is not None and self.alive.state == "ready":
            estimate = estimate_memory(spec, "cpu")
            raise InsufficientMemoryError(spec.model_id, Fit(problem="one is there"), estimate)
        if self.hold is not None:
            assert self.hold.wait(60)
        self.alive = SharedEngine(spec)
        return self.alive


def test_a_model_that_does_not_fit_beside_the_other_comes_after_it(
    model_root: Path, tmp_path: Path
) -> None:
    config = {
        "model_id": ONE,
        "model_root": model_root,
        "engine": ENGINE,
        "sampling": {"temperature": 0, "max_tokens": 8},
    }
    import_model("test/headless", write_tiny_model(tmp_path / "headless", seed=6), root=model_root)
    _rewrite(_copy_in_registry(model_root, "test/headless") / "tokenizer.json", "{}")
    with VLLMService(config, engine_factory=OneAtATime()) as service:
        long = service.generate_async("long", max_tokens=100, ignore_eos=True)
        results: list[Any] = []
        caller = threading.Thread(
            target=lambda: results.extend(service.generate(f"a {n}") for n in range(60))
        )
        caller.start()
        service.switch_model(OTHER)
        caller.join()
        assert long.result()[0]["tokens_used"]["completion"] == 100  # the old engine was drained
        models = [result["model_id"] for (result,) in results]
        assert len(models) == 60
        assert sorted(models, key=[ONE, OTHER].index) == models
        with pytest.raises(EngineError, match="test/headless"):
            service.switch_model("test/headless")
        assert service.generate("b")[0]["model_id"] == OTHER
        assert service.health()["state"] == "ready"


def test_a_switch_that_fails_leaves_the_model_serving(
    service: VLLMService, model_root: Path, tmp_path: Path
) -> None:
    before = service.generate("Hello")[0]["text"]
    weights_cut = write_tiny_model(tmp_path / "cut", seed=3)
    file = weights_cut / "model.safetensors"
    import_model("test/cut", weights_cut, root=model_root)
    _truncate(_copy_in_registry(model_root, "test/cut") / file.name)
    broken = write_tiny_model(tmp_path / "broken", seed=4)
    import_model("test/broken", broken, root=model_root)
    _rewrite(_copy_in_registry(model_root, "test/broken") / "config.json", "{")
    vast = write_tiny_model(tmp_path / "vast", seed=5)
    import_model("test/vast", vast, root=model_root)
    _widen(_copy_in_registry(model_root, "test/vast") / "config.json")
    for model_id, error, says in (
        (
            "test/absent",
            ModelNotFoundError,
            r"Model .test/absent. is not in the registry .*sage llm model download --model",
        ),
        ("test/cut", EngineError, "model.safetensors"),
        ("test/broken", EngineError, "config.json"),
        ("test/vast", InsufficientMemoryError, "max_model_len"),
    ):
        with pytest.raises(error, match=says):
            service.switch_model(model_id)
        assert service.generate("Hello")[0]["text"] == before
        assert service.health()["state"] == "ready"
    with pytest.raises(InsufficientMemoryError):
        service.process({"task": "switch_model", "options": {"model_id": "test/vast"}})
    assert "test/vast" in service.health()["last_error"]


def test_the_fallback_for_embedding_follows_the_text_model(service: VLLMService) -> None:
    assert service.embed("one")["model_id"] == ONE
    service.switch_model(OTHER)
    assert service.embed("one")["model_id"] == OTHER
    assert service.stats()["embedding"]["model_id"] == OTHER


def test_embedding_asked_for_while_no_text_engine_is_there_waits(model_root: Path) -> None:
    config = {"model_id": ONE, "model_root": model_root, "engine": ENGINE}
    one_at_a_time = OneAtATime()
    with VLLMService(config, engine_factory=one_at_a_time) as service:
        one_at_a_time.hold = threading.Event()
        switch = service.process_async({"task": "switch_model", "options": {"model_id": OTHER}})
        while service.health()["engines"]:
            threading.Event().wait(0.001)
        embedded = service.embed_async("early")
        one_at_a_time.hold.set()
        switch.result(timeout=60)
        with pytest.raises(InsufficientMemoryError):  # as there is memory for one engine
            embedded.result(timeout=60)
        with pytest.raises(InsufficientMemoryError):
            service.embed("late")
    with VLLMService(config) as service:
        service.embed("one")
        switch = service.process_async({"task": "switch_model", "options": {"model_id": OTHER}})
        while not switch.done():
            assert service.embed("meanwhile")["dim"]
        assert service.embed("one")["model_id"] == OTHER


def test_another_revision_of_the_embedding_model_is_switched_to(
    model_root: Path, tmp_path: Path
) -> None:
    embedding = "test/embedding"
    for revision, seed in (("one", 1), ("two", 2)):
        folder = write_tiny_model(tmp_path / revision, seed=seed)
        import_model(embedding, folder, revision=revision, root=model_root)
    config = {
        "embedding_model_id": embedding,
        "embedding_revision": "one",
        "embedding_engine": ENGINE,
        "model_root": model_root,
    }
    with VLLMService(config) as service:
        before = service.embed("text")["vectors"]
        service._engines.reload(embedding, "two")
        assert service.embed("text")["vectors"] != before
        service._engines.reload(embedding, "one")
        assert service.embed("text")["vectors"] == before


def _texts(service: VLLMService, prompts: list[str]) -> dict[str, str]:
    results = service.generate(prompts)
    return {p: r["text"] for p, r in zip(prompts, results, strict=True)}


def _copy_in_registry(root: Path, model_id: str) -> Path:
    (commit,) = (root / model_id).iterdir()
    return commit


def _truncate(file: Path) -> None:
    with file.open("r+b") as weights:
        weights.truncate(file.stat().st_size // 2)


def _rewrite(file: Path, text: str) -> None:
    file.write_text(text)


def _widen(file: Path) -> None:
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "num_key_value_heads": 400}))
