"""Several operators, pipelines and kinds of work on one service."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
from sage.kernel.api import LocalEnvironment
from sage.libs.operators.vllm_service import VLLMEmbeddingOperator, VLLMServiceGenerator

pytestmark = pytest.mark.timeout(240)


def test_one_stream_is_generated_and_embedded_by_one_service(
    env: LocalEnvironment, run: Any
) -> None:
    out: list[Any] = []
    (
        env.from_collection([{"id": n, "text": f"text {n}"} for n in range(300)])
        .map(VLLMServiceGenerator, prompt_template="Summarise: {text}", max_tokens=2)
        .map(VLLMEmbeddingOperator, text_key="generated")
        .map(VLLMEmbeddingOperator, text_key="text", output_key="of_the_text")
        .sink(out.append)
    )
    env.submit()
    assert [record["id"] for record in out] == list(range(300))
    assert {record["generated"] for record in out} == {"Summarise: text"}
    assert len({tuple(record["embedding"]) for record in out}) == 1
    assert len({tuple(record["of_the_text"]) for record in out}) == 300


def test_branches_and_replicas_share_one_service(env: LocalEnvironment) -> None:
    generated: list[Any] = []
    embedded: list[Any] = []
    stream = env.from_collection([f"text {n}" for n in range(300)])
    stream.map(VLLMServiceGenerator, parallelism=3).sink(generated.append)
    stream.map(VLLMServiceGenerator, prompt_template="and {prompt}").sink(generated.append)
    stream.map(VLLMEmbeddingOperator).sink(embedded.append)
    env.submit(autostop=False)
    env.wait()
    stats = env.call_service("vllm_service", method="stats")
    env.close()
    assert sorted(record["generated"] for record in generated) == sorted(
        [f"text {n}" for n in range(300)] + [f"and text {n}" for n in range(300)]
    )
    assert [record["text"] for record in embedded] == [f"text {n}" for n in range(300)]
    assert stats["requests_done"] == 600


def test_two_services_of_one_environment_are_told_apart(model_root: Any) -> None:
    env = LocalEnvironment("two")
    for name in ("plain", "short"):
        config = {
            "model_id": "test/echo",
            "model_root": model_root,
            "sampling": {"max_tokens": 1} if name == "short" else {},
        }
        env.register_service(name, VLLMService, config, engine_factory=EchoEngine)
    out: list[Any] = []
    (
        env.from_collection(["one two"])
        .map(VLLMServiceGenerator, "plain")
        .map(VLLMServiceGenerator, "short", output_key="short")
        .sink(out.append)
    )
    env.submit()
    assert (out[0]["generated"], out[0]["short"]) == ("one two", "one")


def test_a_pipeline_and_other_threads_share_one_service(env: LocalEnvironment) -> None:
    out: list[Any] = []
    answers: list[str] = []
    service = env.service("vllm_service")

    def ask() -> None:
        answers.extend(service.generate("outside")[0]["text"] for _ in range(100))

    env.from_collection(["inside"] * 300).map(VLLMServiceGenerator).sink(out.append)
    asking = threading.Thread(target=ask)
    asking.start()
    env.submit(autostop=False)
    env.wait()
    asking.join()
    env.close()
    assert answers == ["outside"] * 100
    assert [record["generated"] for record in out] == ["inside"] * 300
