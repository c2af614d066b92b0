"""Operators on a service of several models: each record reaches the one that is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import write_echo_model
from sage.common.model_registry.vllm_registry import import_model
from sage.kernel.api import LocalEnvironment
from sage.libs.operators import VLLMServiceEmbedder, VLLMServiceGenerator
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


def test_a_name_that_there_is_not_stops_the_run_with_the_nearest(served: LocalEnvironment) -> None:
    stream = served.from_collection(["hi"]).map(VLLMServiceGenerator, model="writter")
    with pytest.raises(InvalidOptionError, match="unknown model 'writter'; did you mean 'writer'"):
        stream.collect()
    with pytest.raises(InvalidOptionError, match="model in VLLMServiceGenerator must be a string"):
        VLLMServiceGenerator(model=3)  # type: ignore[arg-type]  # as a caller without types may
