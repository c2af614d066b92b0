"""The operators over a service in this process and over its replica: what comes out is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
from sage.kernel.api import FailedRecord, LocalEnvironment, RayEnvironment, RunMetrics
from sage.libs.operators import VLLMEmbeddingOperator, VLLMServiceGenerator

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]

CONFIG = {"services": {"vllm_service": {"replicas": 1, "gpus": 0, "cpus": 1}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def run(env: Any, root: Path, records: Any, operator: Any, **options: Any) -> Any:
    """Return what came out, the dead letters as data, and the counts."""
    out: list[Any] = []
    dead: list[FailedRecord] = []
    config = {"model_id": "test/echo", "model_root": root}
    env.register_service("vllm_service", VLLMService, config, engine_factory=EchoEngine)
    stream = env.from_collection(records).map(operator, on_error=dead.append, **options)
    stream.sink(out.append)
    env.submit()
    letters = [(each.record, each.attempts, *told(each.error)) for each in dead]
    return out, letters, counts(env.metrics())


def told(error: BaseException) -> tuple[Any, ...]:
    attributes = {name: value for name, value in vars(error).items() if name != "__notes__"}
    return type(error), str(error), error.args, attributes, getattr(error, "__notes__", [])


def counts(metrics: RunMetrics) -> list[tuple[Any, ...]]:
    return [
        (each.name, each.records_in, each.records_out, each.dead_lettered, each.retries)
        for each in metrics.operators
    ]


GENERATED: list[Any] = [
    "one two three",
    {"id": 7, "prompt": "hello"},
    [{"role": "user", "content": "who are you"}],
    [7, 8],
    [{"id": 2}, "a pair"],
    {"id": 1, "prompt": '{"city": "Paris"}', "options": {"json_schema": SCHEMA}},
    {"prompt": "at most one", "options": {"max_tokens": 1}},
    # and what is wrong
    {"text": "no prompt"},
    7,
    None,
    "",
    {"prompt": ""},
    "word " * 600,
    {"prompt": '{"city": "Paris", "n": 1}', "options": {"json_schema": SCHEMA, "max_tokens": 1}},
    {"prompt": "hello", "options": {"max_token": 1}},
]
EMBEDDED: list[Any] = ["hello", {"id": 1, "text": "hello"}, [{"id": 2}, "hello"], 7, "", {"x": 1}]


@pytest.mark.parametrize(
    ("records", "operator", "options"),
    [
        (GENERATED, VLLMServiceGenerator, {"options_key": "options", "retries": 2}),
        (EMBEDDED, VLLMEmbeddingOperator, {}),
    ],
)
def test_records_errors_and_counts_are_the_same(
    model_root: Path, records: Any, operator: Any, options: Any
) -> None:
    here = run(LocalEnvironment("same"), model_root, records, operator, **options)
    there = run(RayEnvironment("same", CONFIG), model_root, records, operator, **options)
    assert there == here
    out, letters, _ = here
    assert len(out) + len(letters) == len(records)
    assert len(letters) >= 3


@pytest.mark.parametrize("bad", [{"text": "no prompt"}, "word " * 600])
def test_an_error_that_stops_a_run_is_the_same(model_root: Path, bad: Any) -> None:
    errors = []
    for env in (LocalEnvironment("same"), RayEnvironment("same", CONFIG)):
        config = {"model_id": "test/echo", "model_root": model_root}
        env.register_service("vllm_service", VLLMService, config, engine_factory=EchoEngine)
        env.from_collection(["good", bad, "not reached"]).map(VLLMServiceGenerator).sink(print)
        with pytest.raises(ValueError, match="prompt") as caught:
            env.submit()
        errors.append(told(caught.value))
    assert errors[0] == errors[1]
    assert errors[0][-1][-1].startswith("in operator 'VLLMServiceGenerator' on record ")
