"""What a VLLMService says of being several."""

from __future__ import annotations

from typing import Any

import pytest

from sage.common.components.sage_vllm import InvalidInputError, VLLMService

SYSTEM = {"role": "system", "content": "s" * 600}
TURN = {"role": "user", "content": "hi"}


def said(**config: Any) -> Any:
    return VLLMService.replication({"model_id": "a/b", **config})


@pytest.mark.parametrize(
    ("config", "gpus"),
    [
        ({}, 1),
        ({"engine": {"tensor_parallel_size": 2, "pipeline_parallel_size": 3}}, 6),
        ({"replicas": 4}, 4),
        ({"replicas": "auto"}, 1),
        ({"models": {"judge": {"model_id": "c/d", "engine": {"tensor_parallel_size": 2}}}}, 2),
    ],
)
def test_a_replica_takes_the_gpus_of_its_largest_model(config: dict[str, Any], gpus: int) -> None:
    assert said(**config).gpus == gpus
    assert said(**config).replayable


@pytest.mark.parametrize(
    ("prompts", "prefix"),
    [
        ("a prompt", "a prompt"),
        (["first", "second"], "first"),
        ([TURN], "user\0hi\0"),
        ([[TURN], [SYSTEM]], "user\0hi\0"),
        ({"prompt": "one"}, "one"),
        ([{"messages": [TURN]}], "user\0hi\0"),
        ([], ""),
        (None, ""),
        ([3], ""),
    ],
)
def test_generations_that_begin_alike_have_the_same_prefix(prompts: Any, prefix: str) -> None:
    replication = said()
    assert replication.prefix("generate", (prompts,), {}) == prefix
    assert replication.prefix("generate", (), {"prompts": prompts}) == prefix
    payload = {"task": "generate", "inputs": prompts}
    assert replication.prefix("process", (payload,), {}) == prefix
    assert replication.prefix("embed", (prompts,), {}) == ""
    assert replication.prefix("stream", (prompts,), {}) == prefix
    assert replication.prefix("astream", (), {"prompt": prompts}) == prefix


def test_what_tells_of_a_replica_or_changes_it_is_for_each() -> None:
    scope = said().scope
    assert scope("generate", ("hi",), {}) == "one"
    assert scope("stats", (), {}) == "each"
    assert scope("switch_model", ("x/y",), {}) == "change"
    assert scope("process", ({"task": "health"},), {}) == "each"
    assert scope("process", ({"task": "switch_model"},), {}) == "change"
    with pytest.raises(InvalidInputError, match="'replicas': 0"):
        scope("fine_tune", (), {})
