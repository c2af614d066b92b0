"""A service's end: calls in flight, threads that race, and what is left behind."""

from __future__ import annotations

import gc
import os
import resource
import signal
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.driver.shared_engine import SharedEngine
from sage.common.components.sage_vllm.engine_contract import Engine, EngineSpec
from sage.common.components.sage_vllm.errors import EngineClosedError
from sage.common.components.sage_vllm.host import mapped_memory
from sage.common.components.sage_vllm.host.mapped_memory import promised_bytes
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine

CHAT_MODEL, BASE_MODEL = "test/tiny-chat", "test/tiny-base"


@pytest.fixture
def own_engine_threads() -> Callable[[], list[str]]:
    """A function that names the threads of engines that were not there before the test."""
    before = set(threading.enumerate())

    def names() -> list[str]:
        new = set(threading.enumerate()) - before
        return [thread.name for thread in new if thread.name.startswith("sage-engine")]

    return names


def test_two_threads_that_close_at_once_end_every_call(model_root: Path) -> None:
    service = VLLMService(_config(model_root))
    service.open()
    running = [service.generate_async(f"a{n}", max_tokens=500, ignore_eos=True) for n in range(16)]
    waiting = [service.generate_async(f"b{n}", max_tokens=400, ignore_eos=True) for n in range(100)]
    stream = service.stream("c", max_tokens=400, ignore_eos=True)
    embedding = service.embed_async(["text"] * 3)
    closers = [threading.Thread(target=service.close) for _ in range(2)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(timeout=120)
        assert not closer.is_alive()
    for future in [*running, *waiting]:
        with pytest.raises(EngineClosedError, match="was closed, so this request has no result"):
            future.result(timeout=60)
    with pytest.raises(EngineClosedError):
        list(stream)
    with pytest.raises(EngineClosedError):
        embedding.result(timeout=60)
    with pytest.raises(EngineClosedError):
        service.generate("late")
    with pytest.raises(EngineClosedError):
        service.switch_model(BASE_MODEL)
    assert service.health()["state"] == "closed"


def test_closing_in_the_middle_of_a_switch_ends_both_engines(
    model_root: Path, own_engine_threads: Callable[[], list[str]]
) -> None:
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
    assert own_engine_threads() == []
    with pytest.raises(EngineClosedError):
        service.generate("late")


def test_closing_while_a_replaced_engine_finishes_its_calls_ends_them(
    model_root: Path, own_engine_threads: Callable[[], list[str]]
) -> None:
    service = VLLMService(_config(model_root))
    service.open()
    service.switch_model(BASE_MODEL)  # what the first switch imports takes long
    # So many that loading the other model ends long before they do.
    calls = [service.generate_async(f"{n}", max_tokens=500, ignore_eos=True) for n in range(320)]
    switched = service.process_async({"task": "switch_model", "options": {"model_id": CHAT_MODEL}})
    while service.health()["engines"]["text"]["model_id"] != CHAT_MODEL:
        threading.Event().wait(0.001)
    assert not calls[-1].done()
    service.close()
    assert switched.done()
    with pytest.raises(EngineClosedError):
        calls[-1].result(timeout=0)
    assert own_engine_threads() == []


class Held:
    """Builds real engines, from the ``first`` on only when it is let."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.count = 0
        self.building = threading.Event()
        self.let = threading.Event()

    def __call__(self, spec: EngineSpec) -> Engine:
        self.count += 1
        if self.count >= self.first:
            self.building.set()
            assert self.let.wait(120)
        return SharedEngine(spec)


def test_closing_while_the_first_engine_is_built_leaves_none(
    model_root: Path, own_engine_threads: Callable[[], list[str]]
) -> None:
    held = Held(1)
    service = VLLMService(_config(model_root), engine_factory=held)
    errors: list[BaseException] = []

    def open_it() -> None:
        try:
            service.open()
        except EngineClosedError as error:
            errors.append(error)

    opening = threading.Thread(target=open_it)
    opening.start()
    assert held.building.wait(120)
    waiting = service.generate_async("early")
    closing = threading.Thread(target=service.close)
    closing.start()
    with pytest.raises(EngineClosedError):
        waiting.result(timeout=50)  # at once, not when the engine is built
    held.let.set()
    for thread in (closing, opening):
        thread.join(timeout=120)
        assert not thread.is_alive()
    assert len(errors) == 1
    assert own_engine_threads() == []


def test_a_deadline_counts_from_the_call_not_from_the_engine(model_root: Path) -> None:
    held = Held(1)
    with ThreadPoolExecutor(1) as pool:
        service = VLLMService(_config(model_root), engine_factory=held)
        opened = pool.submit(service.open)
        assert held.building.wait(120)
        cut = service.generate_async("Hello", max_tokens=400, ignore_eos=True, deadline=0.01)
        held.let.set()
        opened.result(120)
    try:
        (result,) = cut.result(timeout=60)
        assert result["finish_reason"] == "deadline"
        assert result["tokens_used"]["completion"] <= 1
    finally:
        service.close()


def test_an_engine_process_that_does_not_answer_does_not_keep_the_service_open(
    model_root: Path,
    session_members: Callable[[int], list[str]],
    engine_processes: Callable[[], list[int]],
) -> None:
    service = VLLMService({**_config(model_root), "engine_mode": "process"})
    service.open()
    for pid in engine_processes():
        os.kill(pid, signal.SIGSTOP)
    call = service.generate_async("Hello")
    service.close()
    with pytest.raises(EngineClosedError):
        call.result(timeout=0)
    assert engine_processes() == []
    end = time.monotonic() + 60
    while any("VLLM" in line for line in session_members(os.getsid(0))):
        assert time.monotonic() < end  # a worker ends as soon as its engine has
        time.sleep(0.01)


def test_errors_of_a_closed_service_do_not_grow(model_root: Path) -> None:
    config = {"model_id": "test/echo", "model_root": model_root}
    service = VLLMService(config, engine_factory=EchoEngine)
    service.open()
    service.close()
    for _ in range(100):
        with pytest.raises(EngineClosedError) as raised:
            service.generate("late")
    assert len(traceback.extract_tb(raised.value.__traceback__)) < 20


def test_the_start_of_a_cache_is_taken_at_once_and_the_rest_promised(model_root: Path) -> None:
    config, rest = _config(model_root), 512 << 20
    config["engine"]["kv_cache_memory_bytes"] = (1 << 30) + rest
    gc.collect()  # else caches of engines that have ended may go meanwhile
    before = promised_bytes()
    with VLLMService(config) as service:
        fresh = promised_bytes()
        assert 0.9 * rest < fresh - before <= rest
        service.generate(["a " * n for n in range(1, 40)], max_tokens=40)
        assert promised_bytes() == fresh, "a first batch had to wait for memory"
    assert promised_bytes() == before


def test_a_cache_beside_another_engine_is_promised_until_it_is_used(
    model_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_memory, "_TAKEN_IN_ALL", 0)  # as above the first GB
    config = _config(model_root)
    size = config["engine"]["kv_cache_memory_bytes"]
    gc.collect()
    with VLLMService(config):
        before = promised_bytes()
        with VLLMService(config) as service:
            fresh = promised_bytes() - before
            assert 0.8 * size < fresh <= size
            # More than the first huge page of each layer, in which a new engine proves itself.
            service.generate([f"{n} a" * 80 for n in range(40)], max_tokens=40)
            assert promised_bytes() - before < fresh
        assert promised_bytes() == before


def test_an_engine_leaves_no_settings_to_the_programs_that_this_one_starts(
    model_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"VLLM_LOGGING_LEVEL", "VLLM_LOGGING_STREAM", "VLLM_NO_USAGE_STATS"}
    settings |= {"VLLM_ENABLE_V1_MULTIPROCESSING", "SAGE_VLLM_ENGINE_HOST"}
    settings |= {"TRANSFORMERS_VERBOSITY", "TORCH_CPP_LOG_LEVEL"}
    for name in settings:
        monkeypatch.delenv(name, raising=False)
    with VLLMService(_config(model_root)) as service:
        service.generate("a")
        assert settings.isdisjoint(os.environ)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    with VLLMService(_config(model_root)):
        assert os.environ["VLLM_LOGGING_LEVEL"] == "WARNING"


@pytest.mark.parametrize("mode", ["inline", "process"])
def test_cycles_of_opening_and_closing_leave_nothing(model_root: Path, mode: str) -> None:
    def cycle() -> None:
        with VLLMService({**_config(model_root), "engine_mode": mode}) as service:
            assert service.generate("Hello")[0]["text"]

    for _ in range(3):
        cycle()
    memory, descriptors, threads = _resident_bytes(), _descriptors(), threading.active_count()
    for _ in range(10):
        cycle()
    assert _resident_bytes() - memory < 40 << 20
    end = time.monotonic() + 60
    while _descriptors() > descriptors or threading.active_count() > threads:  # one that ends now
        assert time.monotonic() < end
        time.sleep(0.01)


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
