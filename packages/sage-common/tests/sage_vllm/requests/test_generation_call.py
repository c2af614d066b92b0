"""GenerationCall: prompts started on an engine, all or none."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.engine_contract import EngineSpec, Generation, OnText, Prompt
from sage.common.components.sage_vllm.errors import EngineClosedError, InvalidRequestError
from sage.common.components.sage_vllm.requests.generation_call import GenerationCall
from sage.common.components.sage_vllm.requests.inputs import PromptItem
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine

SPEC = EngineSpec(model_id="test/echo", path=Path("none"))


class HoldingEngine(EchoEngine):
    """Keeps what it is given in flight, and refuses the prompt "bad"."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.held: list[tuple[Future[Generation], Mapping[str, Any]]] = []

    def submit(
        self, prompt: Prompt, options: Mapping[str, Any], on_text: OnText | None = None
    ) -> Future[Generation]:
        super().submit(prompt, options, on_text)
        if prompt == "bad":
            raise InvalidRequestError("test/echo", "a bad prompt")
        self.held.append((Future(), options))
        return self.held[-1][0]


def items(*prompts: str) -> list[PromptItem]:
    return [PromptItem(prompt=prompt) for prompt in prompts]


def test_one_prompt_and_many_give_the_same_results() -> None:
    engine = EchoEngine(SPEC)
    (alone,) = GenerationCall(items("good day"))(engine).result()
    both = GenerationCall(items("good day", "to you"))(engine).result()
    assert [each["text"] for each in both] == ["good day", "to you"]
    assert {**alone, "request_id": ""} == {**both[0], "request_id": ""}


def test_a_prompt_that_is_refused_cancels_those_before_it() -> None:
    engine = HoldingEngine()
    with pytest.raises(InvalidRequestError, match="a bad prompt"):
        GenerationCall(items("one", "two", "bad", "three"))(engine)
    assert [future.cancelled() for future, _ in engine.held] == [True, True]


@pytest.mark.parametrize("prompts", [["bad"], ["one", "bad", "two"]])
def test_an_error_takes_its_prompts_place_where_that_is_asked_for(prompts: list[str]) -> None:
    engine = HoldingEngine()
    call = GenerationCall(items(*prompts), return_errors=True)(engine)
    done = EchoEngine(SPEC).submit("fine", {}).result()
    for future, _ in engine.held:
        future.set_result(done)
    results = call.result()
    error = {"type": "InvalidRequestError", "message": "a bad prompt"}
    assert results[prompts.index("bad")] == {"error": error, "model_id": "test/echo"}
    assert [each.get("text") for each in results if "error" not in each] == ["fine"] * (
        len(prompts) - 1
    )


def test_an_engine_that_is_closed_refuses_the_call_whatever_is_done_with_errors() -> None:
    engine = EchoEngine(SPEC)
    engine.close()
    for prompts in (items("one"), items("one", "two")):
        with pytest.raises(EngineClosedError):
            GenerationCall(prompts, return_errors=True)(engine)


def test_what_a_call_has_waited_for_an_engine_counts_towards_its_deadline() -> None:
    engine, began = HoldingEngine(), time.perf_counter()
    call = GenerationCall([PromptItem(prompt="one", options={"deadline": 5.0})])
    time.sleep(0.05)
    call(engine)
    most = time.perf_counter() - began
    ((_, options),) = engine.held
    assert 5.0 - most <= options["deadline"] <= 4.95


def test_an_answer_by_a_schema_is_parsed_and_others_are_not() -> None:
    engine = EchoEngine(SPEC)
    schema = {"json_schema": {"type": "array"}}
    parsed, plain = GenerationCall(
        [PromptItem(prompt="[1,2]", options=schema), PromptItem(prompt="[1,2]")]
    )(engine).result()
    assert parsed["parsed"] == [1, 2]
    assert "parsed" not in plain
    short = {**schema, "max_tokens": 1}
    (cut,) = GenerationCall([PromptItem(prompt="[1, 2]", options=short)])(engine).result()
    assert cut["text"] == "[1,"
    assert cut["parsed"] is None
