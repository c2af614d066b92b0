"""Models that think: on a real engine, whose model does so at random."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sage.common.components.sage_vllm.driver.inbox import EngineDied
from sage.common.components.sage_vllm.engine_contract import Reasoning, Role
from sage.common.components.sage_vllm.errors import InvalidOptionError, InvalidRequestError
from sage.common.components.sage_vllm.service import VLLMService

ASK = [{"role": "user", "content": "Is it?"}]
SCHEMA = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}, "side": {"enum": ["left", "right"]}},
    "required": ["sure", "side"],
    "additionalProperties": False,
}


@pytest.fixture
def service(thinker: VLLMService) -> Iterator[VLLMService]:
    before = thinker.stats()["restarts"]
    yield thinker
    assert thinker.stats()["restarts"] == before


# -- what vLLM's parsers make of a text -----------------------------------------------------------


@pytest.mark.parametrize(
    ("parser", "text", "reasoning", "answer"),
    [
        ("qwen3", "<think>a</think>b", "a", "b"),
        ("qwen3", "a</think>b", "a", "b"),
        ("qwen3", "never ends", "never ends", ""),
        (
            "qwen3",
            "<think>\none\ntwo\n</think>\n\nthree\n\nfour",
            "\none\ntwo\n",
            "\n\nthree\n\nfour",
        ),
        ("deepseek_r1", "<think>a</think>b", "a", "b"),
        ("deepseek_r1", "a</think>b", "a", "b"),
        ("deepseek_r1", "never ends", "never ends", ""),
    ],
)
def test_thinking_is_told_from_the_answer_in_a_stream_as_in_the_whole(
    readers: Any, tokenizer: Any, parser: str, text: str, reasoning: str, answer: str
) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    reader = reader_of(readers(reasoning=parser))
    whole = reader.read(text, ids)
    assert (whole.reasoning, whole.text) == (reasoning, answer)
    assert 0 < whole.reasoning_token_count <= len(ids)
    stream, pieces, shown = reader.stream(), [], ""
    for count in range(1, len(ids) + 1):
        so_far = tokenizer.decode(ids[:count])
        if not so_far.startswith(shown):
            continue
        pieces += stream.feed(so_far[len(shown) :], ids[:count], finished=count == len(ids))
        shown = so_far
    assert "".join(each for each in pieces if isinstance(each, Reasoning)) == reasoning
    assert "".join(each for each in pieces if not isinstance(each, Reasoning)) == answer


def reader_of(readers: Any, prompt: list[dict[str, Any]] = ASK, **options: Any) -> Any:
    """Return the reader for a prompt whose tokens say nothing of thinking."""
    from vllm import SamplingParams

    return readers.prepare(prompt, options, {"prompt_token_ids": [5, 6]}, SamplingParams(), {})


# -- on the engine --------------------------------------------------------------------------------


def test_results_have_the_thinking_apart(service: VLLMService) -> None:
    (result,) = service.generate(ASK, thinking=8, max_tokens=30)
    assert result["reasoning"]
    assert result["text"]
    assert "think>" not in result["reasoning"] + result["text"]
    assert 0 < result["tokens_used"]["reasoning"] <= 9
    assert result["tokens_used"]["completion"] == 30


@pytest.mark.parametrize("budget", [0, 1, 5, 17])
def test_a_budget_is_kept_to(service: VLLMService, budget: int) -> None:
    prompts = [[{"role": "user", "content": f"question {n}"}] for n in range(8)]
    for result in service.generate(prompts, thinking=budget, max_tokens=40):
        assert result["tokens_used"]["reasoning"] <= budget + 1
        assert result["text"]


def test_a_stream_yields_the_answer_and_has_the_thinking(service: VLLMService) -> None:
    (whole,) = service.generate(ASK, thinking=8, max_tokens=30)
    stream = service.stream(ASK, thinking=8, max_tokens=30)
    assert "".join(stream) == whole["text"] == stream.result["text"]
    assert stream.reasoning == whole["reasoning"] == stream.result["reasoning"]
    pieces = list(service.stream(ASK, thinking=8, max_tokens=30).pieces())
    kinds = [isinstance(piece, Reasoning) for piece in pieces]
    assert kinds == sorted(kinds, reverse=True)  # first it thinks, then it answers
    assert 4 < sum(kinds) < len(kinds)


async def astreamed(service: VLLMService) -> tuple[str, str]:
    stream = service.astream(ASK, thinking=8, max_tokens=30)
    text = "".join([piece async for piece in stream])
    return text, stream.reasoning


def test_an_asynchronous_stream_too(service: VLLMService) -> None:
    import asyncio

    (whole,) = service.generate(ASK, thinking=8, max_tokens=30)
    assert asyncio.run(astreamed(service)) == (whole["text"], whole["reasoning"])


def test_a_schema_binds_what_comes_after_the_thinking(service: VLLMService) -> None:
    prompts = [[{"role": "user", "content": f"question {n}"}] for n in range(200)]
    results = service.generate(
        prompts, json_schema=SCHEMA, thinking=6, temperature=1, seed=1, max_tokens=60
    )
    assert sum(result["parsed"] is not None for result in results) == 200
    for result in results:
        assert set(result["parsed"]) == {"sure", "side"}
        assert json.loads(result["text"]) == result["parsed"]
        assert result["reasoning"]


def test_without_thinking_the_schema_binds_at_once(service: VLLMService) -> None:
    (result,) = service.generate(ASK, json_schema=SCHEMA, thinking=False, max_tokens=60)
    assert set(result["parsed"]) == {"sure", "side"}
    assert result["reasoning"] is None
    assert result["tokens_used"]["reasoning"] == 0
    (plain,) = service.generate(ASK, thinking=False, max_tokens=5)
    assert plain["reasoning"] is None
    assert plain["tokens_used"]["completion"] == 5
    stream = service.stream(ASK, thinking=False, max_tokens=5)
    assert "".join(stream) == plain["text"]
    assert stream.reasoning == ""


def test_cut_off_while_it_thinks_it_has_no_text(service: VLLMService, slow_steps: Any) -> None:
    # The schema is compiled while the deadline runs, and then it thinks some twenty tokens long.
    for options in ({"max_tokens": 5}, {"deadline": 1.0, "max_tokens": 1500}):
        with slow_steps(service, 0.05):
            (result,) = service.generate(ASK, json_schema=SCHEMA, **options)
        assert result["text"] == ""
        assert result["parsed"] is None
        assert result["reasoning"]
        assert result["finish_reason"] in ("length", "deadline")


def test_a_text_is_continued_as_it_stands(service: VLLMService) -> None:
    (result,) = service.generate("once upon", max_tokens=5)
    assert "reasoning" not in result
    assert "reasoning" not in result["tokens_used"]
    (bound,) = service.generate("Is it?", json_schema=SCHEMA, max_tokens=60)
    assert set(bound["parsed"]) == {"sure", "side"}
    with pytest.raises(InvalidOptionError, match="thinking is for conversations"):
        service.generate("once upon", thinking=True)


def test_the_answer_goes_on_where_the_last_message_ends(service: VLLMService) -> None:
    begun = [*ASK, {"role": "assistant", "content": "It is"}]
    (result,) = service.generate(begun, continue_final_message=True, thinking=3, max_tokens=20)
    (asked,) = service.generate(ASK, thinking=3, max_tokens=20)
    assert result["tokens_used"]["prompt"] > asked["tokens_used"]["prompt"]
    assert result["text"] != asked["text"]


def test_several_answers_are_told_apart_each(service: VLLMService) -> None:
    (result,) = service.generate(ASK, thinking=4, n=3, temperature=1, seed=3, max_tokens=20)
    assert len(result["choices"]) == 3
    assert all(choice["reasoning"] and choice["text"] for choice in result["choices"])
    assert result["tokens_used"]["reasoning"] <= 3 * 5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"thinking": -1}, "thinking.*True, False, or a number of tokens, not -1"),
        ({"thinking": "yes"}, "thinking.*True, False, or a number of tokens"),
        ({"template_options": {1: 2}}, "template_options.*strings as keys"),
        (
            {"template_options": {"enable_thinking": True}, "chat_template_kwargs": {}},
            "and its alias chat_template_kwargs are both given",
        ),
    ],
)
def test_an_option_without_sense_is_refused(
    service: VLLMService, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        service.generate(ASK, **options)


def test_the_variables_of_the_template_are_options(service: VLLMService) -> None:
    (off,) = service.generate(ASK, thinking=False)
    for name in ("template_options", "chat_template_kwargs"):
        (result,) = service.generate(ASK, **{name: {"enable_thinking": False}})
        assert result["text"] == off["text"]


def test_a_model_that_does_not_think_accepts_no_budget(model_root: Any) -> None:
    config = {
        "model_id": "test/tiny-chat",
        "model_root": model_root,
        "engine": {"kv_cache_memory_bytes": 64 << 20},
    }
    with VLLMService(config) as service:
        with pytest.raises(InvalidRequestError, match="thinking=5 is a budget, and"):
            service.generate(ASK, thinking=5)
        (result,) = service.generate(ASK, max_tokens=3)
        assert "reasoning" not in result


def test_a_stream_goes_on_after_a_crash_where_it_was(thinker: VLLMService, slow_steps: Any) -> None:
    options = {"thinking": 60, "max_tokens": 200}
    (whole,) = thinker.generate(ASK, **options)
    restarts = thinker.stats()["restarts"]
    with slow_steps(thinker, 0.05):
        stream = thinker.stream(ASK, **options)
        pieces = stream.pieces()
        begun = [next(pieces) for _ in range(3)]
        engine: Any = thinker._engines.engine(Role.GENERATE)
        engine._driver.inbox.tell(EngineDied(engine._driver._runtime_number))
    pieces = [*begun, *pieces]
    thought = [piece for piece in pieces if isinstance(piece, Reasoning)]
    assert "".join(thought) == stream.reasoning == whole["reasoning"]
    assert "".join(piece for piece in pieces if not isinstance(piece, Reasoning)) == whole["text"]
    assert thinker.stats()["restarts"] == restarts + 1
