"""A service's end: calls in flight, threads that race, and what is left behind."""

from __future__ import annotations

import gc
import os
import resource
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.errors import EngineClosedError
from sage.common.components.sage_vllm.mapped_memory import promised_bytes
from sage.common.components.sage_vllm.service import VLLMService

CHAT_MODEL, BASE_MODEL = "test/tiny-chat", "test/tiny-base"


def test_two_threads_that_close_at_once_end_every_call(model_root: Path) -> None:
    service = VLLMService(_config(model_root))
    service.open()
    running = [service.generate_async("a", max_tokens=400, ignore_eos=True) for _ in range(16)]
    waiting = [service.generate_async("b", max_tokens=400, ignore_eos=True) for _ in range(100)]
    stream = service.stream("c", max_tokens=400, ignore_eos=True)
    embedding = service.embed_async(["text"] * 3)
    closers = [threading.Thread(target=service.close) for _ in range(2)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(timeout=60)
        assert not closer.is_alive()
    for future in [*running, *waiting]:
        with pytest.raises(EngineClosedError, match="closed before this request was done"):
            future.result(timeout=10)
    with pytest.raises(EngineClosedError):
        list(stream)
    with pytest.raises(EngineClosedError):
        embedding.result(timeout=60)
    with pytest.raises(EngineClosedError):
        service.generate("late")
    with pytest.raises(EngineClosedError):
        service.switch_model(BASE_MODEL)
    assert service.health()["state"] == "closed"


def test_closing_in_the_middle_of_a_switch_ends_both_engines(model_root: Path) -> None:
    service = VLLMService(_config(model_root))
    service.open()
    switched: Future[Any] = service.process_async(
        {"task": "switch_model", "options": {"model_id": BASE_MODEL}}
    )
    while service.health()["state"] != "switching" and not switched.done():
        threading.Event().wait(0.001)
    service.close()
    assert switched.exception(timeout=60) is None or isinstance(
        switched.exception(), EngineClosedError
    )
    assert [t.name for t in threading.enumerate() if t.name.startswith("sage-engine")] == []
    with pytest.raises(EngineClosedError):
        service.generate("late")


def test_a_cache_is_promised_until_it_is_used_and_given_back_at_the_end(model_root: Path) -> None:
    config = _config(model_root)
    size = config["engine"]["kv_cache_memory_bytes"]
    before = promised_bytes()
    with VLLMService(config) as service:
        fresh = promised_bytes() - before
        assert 0.8 * size < fresh <= size
        service.generate(["a " * n for n in range(1, 40)], max_tokens=40)
        assert promised_bytes() - before < fresh
    assert promised_bytes() == before


def test_an_engine_leaves_no_settings_to_the_programs_that_this_one_starts(
    model_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"VLLM_LOGGING_LEVEL", "VLLM_LOGGING_STREAM", "VLLM_NO_USAGE_STATS"}
    settings |= {"VLLM_ENABLE_V1_MULTIPROCESSING", "SAGE_VLLM_ENGINE_HOST"}
    for name in settings:
        monkeypatch.delenv(name, raising=False)
    with VLLMService(_config(model_root)) as service:
        service.generate("a")
        assert settings.isdisjoint(os.environ)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    with VLLMService(_config(model_root)):
        assert os.environ["VLLM_LOGGING_LEVEL"] == "WARNING"


def test_ten_cycles_of_opening_and_closing_leave_nothing(model_root: Path) -> None:
    def cycle() -> None:
        with VLLMService(_config(model_root)) as service:
            assert service.generate("Hello")[0]["text"]

    for _ in range(3):
        cycle()
    memory, descriptors, threads = _resident_bytes(), _descriptors(), threading.active_count()
    for _ in range(10):
        cycle()
    assert _resident_bytes() - memory < 40 << 20
    assert _descriptors() <= descriptors
    assert threading.active_count() <= threads


def _config(model_root: Path) -> dict[str, Any]:
    return {
        "model_id": CHAT_MODEL,
        "model_root": model_root,
        "engine": {"max_num_seqs": 16, "kv_cache_memory_bytes": 64 << 20},
        "sampling": {"temperature": 0, "max_tokens": 8},
    }


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
