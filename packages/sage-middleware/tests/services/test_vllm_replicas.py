"""A VLLMService as several, on a cluster of threads."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage.common.components.sage_vllm import InvalidInputError, VLLMService
from sage.common.components.sage_vllm.testing import EchoEngine, write_echo_model
from sage.common.model_registry import ModelNotFoundError, import_model
from sage.kernel.runtime.cluster.fake_cluster import FakeCluster
from sage.kernel.runtime.cluster.placement import Placement
from sage.kernel.runtime.cluster.replicas.replicated_service import (
    ReplicaSettings,
    ReplicatedService,
)
from sage.kernel.runtime.service import ServiceFactory, ServiceManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    for name in ("first", "second"):
        import_model(f"demo/{name}", write_echo_model(tmp_path / name), root=tmp_path / "models")
    config = {"model_id": "demo/first", "model_root": tmp_path / "models"}
    cluster, made = FakeCluster(), ServiceManager()
    factory = ServiceFactory(
        service_class=VLLMService, args=(config,), kwargs={"engine_factory": EchoEngine}
    )
    settings = ReplicaSettings(least=2, most=2, gpus=0, cpus=1)
    said = VLLMService.replication(config)
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
    assert [call.result(10)[0]["text"] for call in calls] == [f"{n} two" for n in range(50)]
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
    with pytest.raises(ModelNotFoundError):
        chat.switch_model("demo/third")
    assert chat.generate("one two")[0]["model_id"] == "demo/second"


def test_what_is_for_a_service_here_says_so(manager: ServiceManager) -> None:
    with pytest.raises(InvalidInputError, match=r"fine_tune\(\) is not for a service on a cluster"):
        manager.call_service("chat", "hi", method="fine_tune")
