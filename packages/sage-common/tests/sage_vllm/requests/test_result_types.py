"""The typed shapes are those that the service returns and accepts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints

import pytest

from sage.common.components.sage_vllm import (
    EmbedResult,
    GenerateResult,
    ProcessPayload,
    VLLMService,
)
from sage.common.components.sage_vllm.requests.result_types import (
    Choice,
    TokensUsed,
    ToolCallResult,
)
from sage.common.components.sage_vllm.testing import CannedAnswer, EchoEngine


@pytest.fixture
def service(model_root: Path) -> Iterator[VLLMService]:
    config = {"model_id": "test/echo", "embedding_model_id": "test/echo", "model_root": model_root}
    answers = {"why": CannedAnswer(reasoning="so", text="so")}
    engine = partial(EchoEngine, answers=answers)
    with VLLMService(config, engine_factory=engine) as opened:
        yield opened


def required(shape: Any) -> set[str]:
    hints = get_type_hints(shape, include_extras=True)
    return {name for name, kind in hints.items() if get_origin(kind) is not NotRequired}


def test_a_generation_has_the_keys_that_its_type_names(service: VLLMService) -> None:
    (plain,) = service.generate("one two")
    assert set(plain) == required(GenerateResult)
    assert set(plain["tokens_used"]) == set(get_type_hints(TokensUsed)) - {"reasoning"}
    (full,) = service.generate("1", n=2, json_schema={"type": "integer"})
    assert set(full) == required(GenerateResult) | {"choices", "parsed"}
    assert set(full["choices"][0]) == required(Choice) | {"parsed"}
    (thought,) = service.generate("why", tools=None)
    assert set(thought) == required(GenerateResult) | {"reasoning"}
    assert set(thought["tokens_used"]) == set(get_type_hints(TokensUsed))
    asked = [{"role": "user", "content": "what"}]
    tool = {"type": "function", "function": {"name": "look"}}
    (called,) = service.generate(asked, tools=[tool], tool_choice="required")
    assert set(called) == required(GenerateResult) | {"tool_calls"}
    assert set(called["tool_calls"][0]) == required(ToolCallResult)
    failed, fine = service.generate(["word " * 600, "fine"], on_error="return")
    assert set(failed) == {"error", "model_id"}
    assert set(failed["error"]) == {"type", "message"}
    assert fine["text"] == "fine"


def test_so_has_an_embedding(service: VLLMService) -> None:
    result = service.embed(["one", "two"])
    assert set(result) == required(EmbedResult)
    assert set(result["tokens_used"]) == required(TokensUsed)


def test_the_payload_names_every_task(service: VLLMService) -> None:
    payload: ProcessPayload = {"task": "generate", "inputs": "one", "options": {"max_tokens": 1}}
    assert service.process(payload)[0]["text"] == "one"
    with pytest.raises(ValueError, match="valid: ") as caught:
        service.process({"task": "0"})
    valid = re.split(r"[,:] ", str(caught.value).partition("valid")[2])[1:]
    task = get_type_hints(ProcessPayload)["task"]
    assert get_origin(task) is Literal
    assert sorted(get_args(task)) == valid
