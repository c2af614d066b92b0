"""A VLLMService as several, on a cluster of threads."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from sage.common.components.sage_vllm import InvalidInputError, VLLMService
from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.errors import EngineStartError
from sage.common.components.sage_vllm.testing import EchoEngine, write_echo_model
from sage.common.model_registry import ModelNotFoundError, import_model, list_models
from sage.kernel.runtime.cluster.fake_cluster import FakeCluster
from sage.kernel.runtime.cluster.placement import Placement
from sage.kernel.runtime.cluster.replicas.replicated_service import (
    ReplicaSettings,
    ReplicatedService,
)
from sage.kernel.runtime.service import ServiceFactory, ServiceManager

large_ones = count()


def small_engine(spec: EngineSpec) -> EchoEngine:
    """Make an engine; of those for the large model, only the first one has room."""
    if spec.model_id == "demo/large" and next(large_ones):
        raise EngineStartError(spec.model_id, "no room")
    return EchoEngine(spec)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceManager]:
    """Two replicas on a machine with an empty registry; the models are in another one."""
    monkeypatch.setenv("SAGE_VLLM_MODEL_ROOT", str(tmp_path / "there"))
    here, there = tmp_path / "here", {"model_id": "demo/first"}
    for name in ("first", "second", "large"):
        import_model(f"demo/{name}", write_echo_model(tmp_path / name), root=here)
    cluster, made = FakeCluster(), ServiceManager()
    factory = ServiceFactory(
        service_class=VLLMService, args=(there,), kwargs={"engine_factory": small_engine}
    )
    settings = ReplicaSettings(least=2, most=2, gpus=0, cpus=1)
    said = VLLMService.replication({**there, "model_root": here})
    arguments = (factory, said, settings, lambda *_: (cluster, Placement(cluster.nodes())))
    made.register("chat", ServiceFactory(service_class=ReplicatedService, args=arguments))
    made.start()
    yield made
    made.close()
    cluster.close()


def test_it_answers_as_one(manager: ServiceManager) -> None:
    calls = [
        manager.call_service_async("chat", f"{n} two three", method="generate", max_tokens=2)
        for n in range(50)
    ]
    assert [call.result(60)[0]["text"] for call in calls] == [f"{n} two" for n in range(50)]
    payload = {"task": "generate", "inputs": "one two", "options": {"max_tokens": 1}}
    assert manager.call_service("chat", payload)[0]["text"] == "one"
    assert manager.call_service("chat", "a text", method="embed")["dim"] == 8
    stats = manager.call_service("chat", method="stats")["replicas"]
    assert len(stats) == 2
    assert all(each["requests_done"] for each in stats)
    assert manager.proxy("chat").health()["replicas"][1]["state"] == "ready"


def test_a_text_comes_piece_by_piece(manager: ServiceManager) -> None:
    chat = manager.proxy("chat")
    with chat.stream("one two three", max_tokens=2) as stream:
        pieces = list(stream)
        assert len(pieces) > 1
        assert "".join(pieces) == stream.result["text"] == "one two"
    with pytest.raises(InvalidInputError, match="a stream has one prompt, not 2"):
        next(chat.stream(["one", "two"]))
    with pytest.raises(TypeError, match=r"a worker, or a service on a cluster, calls generate\(\)"):
        pickle.dumps(chat.stream("one"))

    async def read() -> list[str]:
        return [piece async for piece in chat.astream("one two three", max_tokens=2)]

    assert asyncio.run(read()) == pieces


def test_a_switch_is_of_all_replicas_or_none(manager: ServiceManager) -> None:
    chat = manager.proxy("chat")
    chat.switch_model("demo/second")
    assert {each["model_id"] for each in chat.stats()["replicas"]} == {"demo/second"}
    with pytest.raises(ModelNotFoundError, match="neither in this machine's registry at"):
        chat.switch_model("demo/third")
    assert chat.generate("one two")[0]["model_id"] == "demo/second"


def test_an_adapter_is_brought_by_the_first_call_that_names_it(
    manager: ServiceManager, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    commits = [put_adapter(tmp_path / "one", here, rank=4)]
    commits.append(put_adapter(tmp_path / "two", there, rank=8))  # another one, asked for last
    chat = manager.proxy("chat")
    calls = [
        manager.call_service_async("chat", f"{n} two", method="generate", lora="demo/adapter")
        for n in range(20)
    ]
    assert [call.result(60)[0]["text"] for call in calls] == [f"{n} two" for n in range(20)]
    assert {model.commit for model in list_models(root=there) if "adapter" in model.model_id} == {
        *commits
    }
    pieces = chat.stream("one two", lora=f"demo/adapter@{commits[0][:8]}")
    assert "".join(pieces) == "one two"
    with pytest.raises(ModelNotFoundError, match="neither in this machine's registry at"):
        chat.generate("one two", lora="demo/no-adapter")
    with pytest.raises(ModelNotFoundError, match="neither in this machine's registry at"):
        next(chat.stream("one two", lora="demo/no-adapter"))


def put_adapter(folder: Path, root: Path, *, rank: int) -> str:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(f'{{"r": {rank}}}')
    (folder / "adapter_model.safetensors").write_bytes(bytes(8))
    return import_model("demo/adapter", folder, root=root).commit


def test_a_switch_that_one_replica_cannot_make_is_made_by_none(manager: ServiceManager) -> None:
    chat = manager.proxy("chat")
    chat.switch_model("demo/second")
    with pytest.raises(EngineStartError, match="no room"):
        chat.switch_model("demo/large")
    give_up = time.monotonic() + 60
    while len(replicas := chat.stats()["replicas"]) < 2 and time.monotonic() < give_up:
        time.sleep(0.01)  # the one that had made it begins anew
    assert [each["model_id"] for each in replicas] == ["demo/second"] * 2
    results = [chat.generate(f"{n} two")[0] for n in range(20)]
    assert {each["model_id"] for each in results} == {"demo/second"}


def test_what_is_for_a_service_here_says_so(manager: ServiceManager) -> None:
    with pytest.raises(InvalidInputError, match=r"fine_tune\(\) is not for a service on a cluster"):
        manager.call_service("chat", "hi", method="fine_tune")
