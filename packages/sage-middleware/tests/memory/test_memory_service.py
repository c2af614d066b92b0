"""The memory as a service: pipelines that fill it and ask it, embedders that are services."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_embedding import get_embedding_model
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
from sage.common.core.functions import MapFunction
from sage.common.service import ServiceClosedError, ServiceNotFoundError
from sage.kernel.api import LocalEnvironment
from sage.middleware.components.memory import (
    InvalidFilterError,
    VDBMemoryCollection,
    VDBMemoryService,
    VDBMemoryServiceConfig,
)
from sage.middleware.services.memory import register_memory_service
from sage.middleware.services.vllm import register_vllm_service

HASH = {"method": "hash", "dim": 64}
TEXTS = ["the red fox jumps", "a blue whale dives", "share prices fell in Tokyo"]


class Remember(MapFunction):
    def execute(self, record: list[str]) -> Any:
        return self.call_service("memory", record, method="insert_batch")


class Retrieve(MapFunction):
    def execute(self, record: str) -> Any:
        return self.call_service("memory", record, method="search", k=2)


def test_one_pipeline_fills_the_memory_and_another_asks_it(tmp_path: Path) -> None:
    config = {"folder": tmp_path, "embedding": HASH}
    ids: list[list[str]] = []
    hits: list[Any] = []
    with LocalEnvironment("fill") as env:
        register_memory_service(env, config=config)
        env.from_collection([TEXTS[:1], TEXTS[1:]]).map(Remember).sink(ids.append)
        env.submit()
    with LocalEnvironment("ask") as env:
        register_memory_service(env, config=config)
        questions = ["the red fox", "share prices", "a blue whale"] * 20
        env.from_collection(questions).map(Retrieve, parallelism=4).sink(hits.append)
        env.submit()
    assert [len(one) for one in ids] == [1, 2]
    assert len(hits) == 60
    assert {found[0].text for found in hits} == set(TEXTS)
    assert {len(found) for found in hits} == {2}


@pytest.mark.parametrize("first", ["memory", "vllm"])
def test_another_service_of_the_environment_embeds(
    tmp_path: Path, model_root: Path, first: str
) -> None:
    vllm = {"model_id": "test/echo", "model_root": model_root}
    memory = {"folder": tmp_path, "embedding_service": "vllm_service", "batch_size": 2}
    with LocalEnvironment("test") as env:
        if first == "memory":  # it asks for vectors only once it is called
            register_memory_service(env, config=memory)
        register_vllm_service(env, config=vllm, engine_factory=EchoEngine)
        if first == "vllm":
            register_memory_service(env, config=memory)
        env.call_service("memory", TEXTS, method="insert_batch")
        (hit,) = env.call_service("memory", TEXTS[1], method="search", k=1)
        assert (hit.text, hit.score) == (TEXTS[1], pytest.approx(1))
        through_proxy = env.service("memory").search("share prices fell in Tokyo", k=1)
        assert through_proxy[0].text == TEXTS[2]


def test_an_embedding_service_that_is_not_there_is_named(tmp_path: Path) -> None:
    with LocalEnvironment("test") as env:
        config = {"folder": tmp_path, "embedding_service": "vlm", "create": True}
        register_memory_service(env, "memory", config)
        with pytest.raises(ServiceNotFoundError, match="'vlm'"):
            env.call_service("memory", "text", method="insert")
        assert env.call_service("memory", method="count") == 0


def test_a_real_engine_embeds_for_a_collection(tmp_path: Path, service: VLLMService) -> None:
    with VDBMemoryCollection(tmp_path, embedder=service) as memory:
        memory.insert_batch(TEXTS)
        (hit,) = memory.search(TEXTS[2], k=1)
        assert (hit.text, memory.dim) == (TEXTS[2], 64)
        assert hit.score == pytest.approx(1, abs=1e-3)


def test_every_task_by_method_and_by_process(tmp_path: Path) -> None:
    embedder = get_embedding_model(**HASH)
    config = {"folder": tmp_path, "fields": {"year": "int"}}
    with VDBMemoryService(config, embedder=embedder) as service:
        made = service.insert(TEXTS[0], {"year": 1}, record_id="a")
        assert made == "a"
        service.upsert("a", TEXTS[1], {"year": 2})
        service.upsert_batch(["b"], [TEXTS[2]])
        assert [r and r.text for r in service.get_batch(["a", "b", "c"])] == [*TEXTS[1:], None]
        record = service.get("a")
        assert record is not None
        assert pickle.loads(pickle.dumps(record)) == record
        search = {"task": "search", "inputs": TEXTS[1], "options": {"k": 1, "where": {"year": 2}}}
        (hit,) = service.process(search)
        assert hit == service.search(TEXTS[1], k=1)[0]
        batch = {"task": "insert_batch", "inputs": ["x", "y"], "options": {"ids": ["x", "y"]}}
        assert service.process(batch) == ["x", "y"]
        assert service.process({"task": "delete", "inputs": ["x", "b"]}) == 2
        assert service.process({"task": "delete", "options": {"where": {"year": 2}}}) == 1
        assert service.process({"task": "count"}) == service.count() == 1
        service.optimize()
        with pytest.raises(InvalidFilterError, match="'yer'"):
            service.count({"yer": 3})
    assert embedder.embed("still the caller's")
    with pytest.raises(RuntimeError, match="closed"):
        service.count()


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"task": "serch"}, "unknown task 'serch'; did you mean 'search'"),
        ({"task": "close"}, "unknown task 'close'"),
        ({"tsk": "search"}, "the payload must be"),
        ("search", "the payload must be"),
    ],
)
def test_process_says_what_it_takes(tmp_path: Path, payload: Any, says: str) -> None:
    with VDBMemoryService({"folder": tmp_path}) as service, pytest.raises(ValueError, match=says):
        service.process(payload)


def test_a_service_that_is_not_open_says_so(tmp_path: Path) -> None:
    with pytest.raises(ServiceClosedError, match="not been opened"):
        VDBMemoryService({"folder": tmp_path}).count()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "no config given"),
        ({}, "names no folder"),
        ({"foldr": "x"}, "unknown configuration key 'foldr'; did you mean 'folder'"),
        ({"folder": "x", "embedding": "hash"}, "must be a dict with a 'method'"),
        ({"folder": "x", "embedding": {"dim": 3}}, "must be a dict with a 'method'"),
        ({"folder": "x", "embedding": HASH, "embedding_service": "v"}, "not both"),
        ({"folder": "x", "fields": {"year": "date"}}, "unknown type 'date'"),
    ],
)
def test_a_bad_configuration_is_refused_when_it_is_registered(config: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        register_memory_service(LocalEnvironment(), config=config)


def test_an_embedder_and_an_embedding_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        VDBMemoryService({"folder": tmp_path, "embedding": HASH}, embedder=len)


def test_a_configuration_pickles_and_a_bad_embedding_stops_submit(tmp_path: Path) -> None:
    config = VDBMemoryServiceConfig(folder=tmp_path, embedding={"method": "hsh"})
    assert pickle.loads(pickle.dumps(config)) == config
    seen: list[int] = []
    env = LocalEnvironment("test")
    register_memory_service(env, config=config)
    env.from_collection([1]).sink(seen.append)
    with pytest.raises(ValueError, match="unknown embedding method 'hsh'; did you mean 'hash'"):
        env.submit()
    assert seen == []
