"""Engines that die under their requests, for real."""

from __future__ import annotations

import os
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage.common.components.sage_vllm.errors import EngineDeadError, PoisonRequestError
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import import_model

CHAT_MODEL = "test/tiny-chat"
ENGINE = {"max_num_seqs": 32, "kv_cache_memory_bytes": 64 << 20, "dtype": "float32"}
PROMPTS = [f"prompt number {n} of the run" for n in range(256)]

LIMIT = 240  # seconds, in which an engine is built again

FRAGILE = '''
import time
from pathlib import Path

from vllm.v1.sample.logits_processor import LogitsProcessor


class Fragile(LogitsProcessor):
    """Makes the step raise when it meets a request that says so, or once, when a file is there."""

    def __init__(self, vllm_config, device, is_pin_memory):
        self.fatal = set()
        while Path(__file__).with_name("hold").exists():  # a test has not seen enough of the build
            time.sleep(0.01)

    def is_argmax_invariant(self):
        return False  # else it is left out of greedy sampling

    def update_state(self, batch_update):
        if batch_update is None:
            return
        for index in batch_update.removed:
            self.fatal.discard(index)
        for index, params, _, _ in batch_update.added:
            self.fatal.discard(index)
            extra = params.extra_args or {}
            if extra.get("fatal"):
                self.fatal.add(index)
            once = extra.get("once")
            if once and Path(once).exists():
                Path(once).unlink()
                self.fatal.add(index)
        for source, target, direction in batch_update.moved:
            if source in self.fatal:
                self.fatal.discard(source)
                self.fatal.add(target)

    def apply(self, logits):
        if self.fatal:
            raise RuntimeError("this batch is fatal")
        return logits
'''


@pytest.fixture(scope="module", autouse=True)
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a module that the engine loads its logits processor from."""
    folder = tmp_path_factory.mktemp("fragile")
    (folder / "sage_fragile.py").write_text(textwrap.dedent(FRAGILE))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture
def service(model_root: Path) -> Iterator[VLLMService]:
    with VLLMService(_config(model_root)) as opened:
        yield opened


def test_a_step_that_raises_once_costs_no_request(service: VLLMService, tmp_path: Path) -> None:
    undisturbed = _texts(service.generate(PROMPTS))
    once = tmp_path / "once"
    once.touch()
    items: list[Any] = list(PROMPTS)
    items[40] = {"prompt": PROMPTS[40], "options": {"extra_args": {"once": str(once)}}}
    assert _texts(service.generate(items)) == undisturbed
    assert not once.exists()
    stats = service.stats()
    assert stats["restarts"] == 1
    assert stats["in_flight"] == 0
    assert stats["requests_done"] == 512
    assert service.health()["state"] == "ready"


def test_a_poison_request_fails_alone(service: VLLMService) -> None:
    good = [service.generate_async(prompt) for prompt in PROMPTS[:20]]
    poison = service.generate_async("poison", extra_args={"fatal": True})
    more = [service.generate_async(prompt) for prompt in PROMPTS[20:40]]
    with pytest.raises(PoisonRequestError, match=r"made the engine.*this batch is fatal"):
        poison.result()
    assert all(future.result()[0]["text"] for future in [*good, *more])
    (returned,) = service.generate(
        {"prompt": "poison", "options": {"extra_args": {"fatal": True}}}, on_error="return"
    )
    assert returned["error"]["type"] == "PoisonRequestError"
    assert service.generate("fine")[0]["text"]


def test_calls_made_while_the_engine_is_built_again_wait_for_it(
    service: VLLMService, fragile: Path, tmp_path: Path
) -> None:
    undisturbed = _texts(service.generate(PROMPTS[:8]))
    tokens = service.count_tokens(PROMPTS[0])
    once = tmp_path / "once"
    once.touch()
    (fragile / "hold").touch()
    crash = service.generate_async("crash", extra_args={"once": str(once)})
    try:
        until(lambda: service.health()["state"] == "recovering")
        during = []
        for _ in range(3):
            during.append(service.generate_async(PROMPTS[:8]))
            assert service.count_tokens(PROMPTS[0]) == tokens
            threading.Event().wait(0.05)
        assert service.health()["state"] == "recovering"
        assert not any(future.done() for future in (crash, *during))
    finally:
        (fragile / "hold").unlink()
    for future in during:
        assert _texts(future.result()) == undisturbed
    assert crash.result()
    assert service.stats()["restarts"] == 1


def test_a_stream_goes_on_after_a_crash_without_repeating_itself(
    service: VLLMService, tmp_path: Path
) -> None:
    (whole,) = service.generate("Tell me", max_tokens=400, ignore_eos=True)
    once = tmp_path / "once"
    pieces: list[str] = []
    with service.stream("Tell me", max_tokens=400, ignore_eos=True) as stream:
        for piece in stream:
            pieces.append(piece)
            if len(pieces) == 5:
                once.touch()
                crash = service.generate_async("crash", extra_args={"once": str(once)})
    assert crash.result()
    assert "".join(pieces) == whole["text"] == stream.result["text"]
    assert not once.exists()
    assert service.stats()["restarts"] == 1


def test_an_engine_that_cannot_be_built_again_fails_its_requests_and_can_be_replaced(
    model_root: Path, tmp_path: Path
) -> None:
    import_model("test/doomed", write_tiny_model(tmp_path / "doomed", seed=8), root=model_root)
    with VLLMService({**_config(model_root), "model_id": "test/doomed"}) as service:
        (commit,) = (model_root / "test/doomed").iterdir()
        (commit / "model.safetensors").write_bytes(b"")
        with pytest.raises(EngineDeadError, match="test/doomed"):
            service.generate("die", extra_args={"fatal": True})
        with pytest.raises(EngineDeadError):
            service.generate("fine")
        assert service.health()["state"] == "failed"
        service.switch_model(CHAT_MODEL)
        assert service.generate("fine")[0]["model_id"] == CHAT_MODEL
        assert service.health()["state"] == "ready"


def test_closing_while_an_engine_is_built_again_ends_the_calls(
    service: VLLMService, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    once.touch()
    crash = service.generate_async("crash", extra_args={"once": str(once)})
    while service.health()["state"] != "recovering" and not crash.done():
        threading.Event().wait(0.001)
    service.close()
    assert crash.done()
    assert crash.exception() is None or "closed" in str(crash.exception())


def test_killed_engine_process_in_the_middle_of_256_requests(
    model_root: Path, engine_processes: Callable[[], list[int]]
) -> None:
    with VLLMService({**_config(model_root), "engine_mode": "process"}) as service:
        assert service.stats()["engine"]["mode"] == "process"
        undisturbed = _texts(service.generate(PROMPTS))
        counts = [0] * len(PROMPTS)
        futures = []
        half = threading.Event()
        done = 0

        def count(index: int) -> None:
            nonlocal done
            counts[index] += 1
            done += 1
            if done >= 64:
                half.set()

        for index, prompt in enumerate(PROMPTS):
            future = service.generate_async(prompt)
            future.add_done_callback(lambda _, index=index: count(index))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            futures.append(future)
        assert half.wait(LIMIT)
        for pid in engine_processes():
            os.kill(pid, signal.SIGKILL)
        texts = _texts([future.result()[0] for future in futures])
        assert texts == undisturbed
        until(lambda: sum(counts) >= len(PROMPTS))  # a callback comes behind the result
        assert counts == [1] * len(PROMPTS)
        until(lambda: service.stats()["restarts"] == 1)  # soon, where all were done by then
        # An engine that dies while it is idle is up again before anybody asks.
        for pid in engine_processes():
            os.kill(pid, signal.SIGKILL)
        assert _texts(service.generate(PROMPTS[:4])) == undisturbed[:4]
        assert service.stats()["restarts"] == 2


def test_killed_engine_process_with_texts_that_wait_to_be_tokenised(
    model_root: Path, engine_processes: Callable[[], list[int]]
) -> None:
    config = {
        "embedding_model_id": CHAT_MODEL,
        "model_root": model_root,
        "embedding_engine": {**ENGINE, "max_num_seqs": 4},  # of 256 texts, most wait
        "engine_mode": "process",
    }
    with VLLMService(config) as service:
        undisturbed = np.array(service.embed(PROMPTS)["vectors"])
        some = threading.Event()
        futures = [service.embed_async(prompt) for prompt in PROMPTS]
        futures[20].add_done_callback(lambda _: some.set())
        assert some.wait(LIMIT)
        for pid in engine_processes():
            os.kill(pid, signal.SIGKILL)
        vectors = np.array([future.result()["vectors"][0] for future in futures])
        assert (vectors * undisturbed).sum(axis=1).min() > 0.999
        until(lambda: service.stats()["embedding"]["restarts"] == 1)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def _config(model_root: Path) -> dict[str, Any]:
    return {
        "model_id": CHAT_MODEL,
        "model_root": model_root,
        "engine": {**ENGINE, "logits_processors": ["sage_fragile:Fragile"]},
        "sampling": {"temperature": 0, "max_tokens": 16},
    }


def _texts(results: list[dict[str, Any]]) -> list[str]:
    return [result["text"] for result in results]
