"""Operators on a service of several models: each record reaches the one that is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.errors import InvalidOptionError, WrongModelTypeError
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine, write_echo_model
from sage.common.model_registry.errors import ModelNotFoundError
from sage.common.model_registry.vllm_registry import import_model
from sage.common.service import ServiceNotFoundError
from sage.kernel.api import LocalEnvironment
from sage.libs.operators import (
    VLLMClassifyOperator,
    VLLMScoreOperator,
    VLLMServiceEmbedder,
    VLLMServiceGenerator,
)
from sage.middleware.services.vllm import register_vllm_service

pytest_plugins = ["sage.libs.testing"]


@pytest.fixture
def served(
    sage_env: LocalEnvironment, echo_service: Callable[..., VLLMService], tmp_path: Path
) -> LocalEnvironment:
    """An environment with a service of a writer, a judge and one that embeds."""
    root, folder = tmp_path / "own", write_echo_model(tmp_path / "echo")
    for model_id in ("test/echo", "own/writer", "own/judge", "own/vectors"):
        import_model(model_id, folder, root=root)
    models = {
        "writer": "own/writer",
        "judge": {"model_id": "own/judge", "sampling": {"max_tokens": 1}},
        "vectors": {"model_id": "own/vectors", "role": "embed"},
    }
    register_vllm_service(sage_env, service=echo_service(models=models, model_root=root))
    return sage_env


def test_each_operator_calls_the_model_it_was_told(served: LocalEnvironment) -> None:
    records = (
        served.from_collection([f"topic {n}" for n in range(50)])
        .map(VLLMServiceGenerator, model="writer", details_key="wrote")
        .map(
            VLLMServiceGenerator,
            model="judge",
            prompt_key="generated",
            output_key="verdict",
            details_key="judged",
        )
        .map(VLLMServiceEmbedder, model="vectors", text_key="generated")
        .collect()
    )
    assert [record["generated"] for record in records] == [f"topic {n}" for n in range(50)]
    assert {record["wrote"]["model_id"] for record in records} == {"own/writer"}
    assert {record["judged"]["model_id"] for record in records} == {"own/judge"}
    assert {record["verdict"] for record in records} == {"topic"}  # its own max_tokens
    assert all(len(record["embedding"]) == 8 for record in records)


def test_a_record_may_name_another_model_than_its_operator(served: LocalEnvironment) -> None:
    hard = [
        {"prompt": f"p {n}", "how": {"model": "judge"} if n % 5 == 0 else None} for n in range(50)
    ]
    records = (
        served.from_collection(hard)
        .map(VLLMServiceGenerator, model="writer", options_key="how")
        .collect()
    )
    for number, record in enumerate(records):
        expected = "own/judge" if number % 5 == 0 else "own/writer"
        assert record["generation"]["model_id"] == expected


GENERATE, EMBED, SCORE = VLLMServiceGenerator, VLLMServiceEmbedder, VLLMScoreOperator
CLASSIFY, AB = VLLMClassifyOperator, ["a", "b"]
WRONG = [
    (GENERATE, {"model": "writter"}, InvalidOptionError, "unknown.*'writter'; did.*'writer'"),
    (GENERATE, {"model": "vectors"}, WrongModelTypeError, "embeds, and cannot.*: text, writer, j"),
    (GENERATE, {"lora": "own/none"}, ModelNotFoundError, "own/none"),
    (GENERATE, {"service_name": "vllm", "max_in_flight": 4}, ServiceNotFoundError, "vllm_service"),
    (EMBED, {"model": "vector"}, InvalidOptionError, "unknown model 'vector'; did you mean 'vect"),
    (EMBED, {"dimensions": -1}, InvalidOptionError, "dimensions must be a whole.*not -1"),
    (EMBED, {"prompt_name": "query"}, InvalidOptionError, "has no prompt 'query'"),
    (SCORE, {"query": "q"}, WrongModelTypeError, "'test/echo' generates, and cannot score"),
    (SCORE, {"query": "q", "top_n": 1, "model": "x"}, InvalidOptionError, "unknown model 'x'"),
    (CLASSIFY, {"model": "judge"}, WrongModelTypeError, "generates, and cannot score"),
    (CLASSIFY, {"model": "vectors", "labels": AB}, WrongModelTypeError, "and cannot generate"),
]


@pytest.mark.parametrize(("operator", "options", "error", "says"), WRONG)
def test_a_mistake_in_an_operators_options_ends_the_run_before_a_record_moves(
    served: LocalEnvironment, operator: Any, options: Any, error: type[Exception], says: str
) -> None:
    moved: list[str] = []

    def records() -> Iterator[str]:
        moved.append("one")
        yield "a text"

    with pytest.raises(error, match=says):  # though every record's error would be skipped
        served.from_source(records).map(operator, on_error="skip", **options).collect()
    assert moved == []


def test_of_several_models_each_record_or_the_operator_names_one(tmp_path: Path) -> None:
    root, folder = tmp_path / "own", write_echo_model(tmp_path / "echo")
    config: dict[str, Any] = {"models": {}, "model_root": root}
    for name in "ab":
        import_model(f"own/{name}", folder, root=root)
        config["models"][name] = f"own/{name}"

    def run(record: Any, **options: Any) -> Any:
        env = LocalEnvironment("several")
        env.register_service("vllm_service", VLLMService, config, engine_factory=EchoEngine)
        stream = env.from_collection([record])
        (answered,) = stream.map(VLLMServiceGenerator, on_error="skip", **options).collect()
        return answered["generation"]["model_id"]

    assert run({"prompt": "hi", "how": {"model": "b"}}, options_key="how") == "own/b"
    assert run("hi", model="a") == "own/a"
    with pytest.raises(InvalidOptionError, match=r"several models generate.*one of a, b"):
        run("hi")


def test_a_name_that_is_none_is_refused_by_the_operator() -> None:
    with pytest.raises(InvalidOptionError, match="model in VLLMServiceGenerator must be a string"):
        VLLMServiceGenerator(model=3)  # type: ignore[arg-type]  # as a caller without types may
