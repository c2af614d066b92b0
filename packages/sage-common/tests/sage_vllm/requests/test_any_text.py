"""Prompts and answers of any text, on a real engine: generated, streamed, cut by a deadline."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sage.common.components.sage_vllm.service import VLLMService

FOREIGN = "\N{REPLACEMENT CHARACTER}"
CUT = "What is the capital of France? " + "é".encode()[:1].decode(errors="replace")
any_text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
awkward = st.text(st.sampled_from(f"ab {FOREIGN}é你😀👩\u200d💻"), min_size=1, max_size=10)
on_one_service = settings(
    max_examples=60,
    deadline=None,
    # How long the machine takes to make up a text says nothing of the service.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("prompt", [CUT, FOREIGN, f"{FOREIGN}{FOREIGN} ", "cut 😀"[:-1] + FOREIGN])
def test_no_character_of_a_prompt_comes_back(service: VLLMService, prompt: str) -> None:
    (result,) = service.generate(prompt, choice=["yes", "no"])
    assert result["text"] in ("yes", "no")
    (plain,) = service.generate(prompt, max_tokens=12)
    with service.stream(prompt, max_tokens=12) as stream:
        assert "".join(stream) == plain["text"] == stream.result["text"]
    (timed,) = service.generate(prompt, max_tokens=12, deadline=60)
    assert timed["text"] == plain["text"]
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    (parsed,) = service.generate(prompt, json_schema=schema, max_tokens=60)
    if parsed["finish_reason"] == "stop":
        assert json.loads(parsed["text"]) == parsed["parsed"]
    assert parsed["text"].startswith("{")


@on_one_service
@given(prompt=any_text | awkward, answer=awkward)
def test_an_answer_is_what_it_was_told_to_be_after_any_prompt(
    service: VLLMService, prompt: str, answer: str
) -> None:
    (result,) = service.generate(prompt, choice=[answer], max_tokens=100)
    assert result["text"] == answer
    with service.stream(prompt, choice=[answer], max_tokens=100) as stream:
        assert "".join(stream) == answer


@on_one_service
@given(prompt=any_text | awkward, seed=st.integers(0, 1000))
def test_streams_and_deadlines_give_the_same_text_as_a_call(
    service: VLLMService, prompt: str, seed: int
) -> None:
    options: dict[str, Any] = {"temperature": 2.0, "seed": seed, "max_tokens": 12}
    (plain,) = service.generate(prompt, **options)
    (timed,) = service.generate(prompt, **options, deadline=60)
    with service.stream(prompt, **options) as stream:
        assert "".join(stream) == plain["text"] == timed["text"]


@pytest.mark.parametrize(
    "prompt",
    [
        "a \ud83d b",
        [{"role": "user", "content": "a \ud83d b"}],
        [{"role": "user", "content": [{"type": "text", "text": "a \ud83d b"}]}],
    ],
)
def test_half_a_character_is_refused_with_its_place_and_the_way_out(
    service: VLLMService, prompt: Any
) -> None:
    with pytest.raises(ValueError, match=r"'\\ud83d' at position 2.*surrogatepass"):
        service.generate([prompt])
    with pytest.raises(ValueError, match=r"text 1.*'\\ud83d' at position 2"):
        service.embed(["fine", "a \ud83d b"])


@pytest.mark.parametrize(
    "options",
    [
        {"stop": ["\ud83d"]},
        {"choice": ["a\ud83d"]},
        {"regex": "a\ud83d"},
        {"bad_words": ["\ud83d"]},
        {"json_schema": {"enum": ["a\ud83d"]}},
    ],
)
def test_half_a_character_in_an_option_is_refused(
    service: VLLMService, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(options))} .*'\\ud83d'"):
        service.generate("Hello", **options)
    assert service.generate("Hello")[0]["text"]
