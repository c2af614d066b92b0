"""The shipped engine without weights keeps the Engine protocol."""

from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.errors import (
    EngineClosedError,
    EngineDeadError,
    InvalidRequestError,
    PromptTooLongError,
)
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing import SleepingEngine, echo_engine
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine


@pytest.fixture
def service(model_root: Path) -> VLLMService:
    config = {"model_id": "test/echo", "model_root": model_root}
    return VLLMService(config, engine_factory=EchoEngine)


def test_it_answers_with_the_words_of_the_prompt(service: VLLMService) -> None:
    with service:
        whole, cut = service.generate(
            ["one two three", {"prompt": "a b", "options": {"max_tokens": 1}}]
        )
        (chat,) = service.generate([{"role": "user", "content": "hi there"}])
    assert (whole["text"], whole["finish_reason"]) == ("one two three", "stop")
    assert (cut["text"], cut["finish_reason"]) == ("a", "length")
    assert cut["tokens_used"] == {"prompt": 2, "completion": 1, "total": 3}
    assert chat["text"] == "hi there"


def test_an_answer_of_a_sleeping_engine_has_taken_its_steps(model_root: Path) -> None:
    config = {"model_id": "test/echo", "model_root": model_root}
    with VLLMService(config, engine_factory=SleepingEngine) as service:
        (result,) = service.generate("one two three")
    assert 0.03 <= result["latency"] < 10


def test_it_refuses_what_a_model_would(service: VLLMService) -> None:
    says = "512 tokens, and this prompt has 600"
    with service, pytest.raises(PromptTooLongError, match=says) as caught:
        service.generate("word " * 600)
    assert (caught.value.prompt_tokens, caught.value.max_model_len) == (600, 512)


def test_its_vectors_depend_on_the_text_and_have_length_one(service: VLLMService) -> None:
    with service:
        one, other, again = service.embed(["one", "other", "one"])["vectors"]
    assert one == again != other
    assert sum(x * x for x in one) == pytest.approx(1)


def test_it_counts_and_closes(service: VLLMService) -> None:
    with service:
        service.generate(["a b", "c"])
        stats = service.stats()
    assert stats["requests_done"] == 2
    assert stats["prompt_tokens"] == 3
    with pytest.raises(EngineClosedError, match="test/echo"):
        service.generate("late")


# -- texts of a given form -------------------------------------------------------------------------

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 7},
        "age": {"type": "integer", "minimum": 18, "exclusiveMaximum": 100},
        "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2},
        "boss": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["name", "age", "boss"],
    "additionalProperties": False,
}
SCHEMAS: list[dict[str, Any]] = [
    {},
    {"type": "array"},
    {"type": ["null", "string"]},
    {"type": "string", "minLength": 40},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "integer", "multipleOf": 7, "minimum": 50},
    {"type": "integer", "maximum": -3},
    {"type": "boolean"},
    {"const": {"a": 1}},
    {"required": ["a", "b"], "additionalProperties": {"type": "integer"}},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": False},
    {"allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "null"}}, "required": ["a"]}]},
    {"$defs": {"n": {"type": "integer"}}, "oneOf": [{"$ref": "#/$defs/n"}, {"type": "string"}]},
    {"$defs": {"t": {"properties": {"next": {"$ref": "#/$defs/t"}}}}, "$ref": "#/$defs/t"},
    {"anyOf": [False, {"type": "array", "maxItems": 0}]},
    PERSON,
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_an_answer_keeps_to_its_schema(service: VLLMService, schema: dict[str, Any]) -> None:
    with service:
        (answer,) = service.generate("Who is Ada Lovelace ?", json_schema=schema)
    Draft202012Validator(schema).validate(answer["parsed"])
    assert answer["parsed"] == json.loads(answer["text"])
    assert answer["finish_reason"] == "stop"


def test_an_object_says_the_words_of_its_prompt(service: VLLMService) -> None:
    schema = {"properties": {"title": {"type": "string"}, "n": {"type": "integer"}}}
    with service:
        (answer,) = service.generate("Classify this: my printer is on fire", json_schema=schema)
        (cut,) = service.generate("my printer", json_schema=schema, max_tokens=2)
        (own,) = service.generate('{"n":  3}', json_schema=schema)
    assert answer["parsed"] == {"title": "my printer is on fire", "n": 0}
    assert (cut["text"], cut["parsed"], cut["finish_reason"]) == ('{"title": "my', None, "length")
    assert own["parsed"] == {"n": 3}  # what fits is not replaced


@pytest.mark.parametrize(
    "pattern",
    [r"\d{3}-\d{4}", r"(yes|no)", r"[A-Z][a-z]{2,8}(, [A-Z][a-z]+){1,3}", "ä+b?", r"a*", r"\s"],
)
def test_an_answer_matches_its_regex(service: VLLMService, pattern: str) -> None:
    with service:
        (answer,) = service.generate("a prompt", regex=pattern)
    assert re.fullmatch(pattern, answer["text"])
    assert answer["text"]


def test_a_choice_is_the_prompt_where_it_can_be_and_else_the_first(service: VLLMService) -> None:
    with service:
        texts = [each["text"] for each in service.generate(["b", "c"], choice=["a  b", "b"])]
    assert texts == ["b", "a  b"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"grammar": "root ::= 'a'"}, "makes no text of a grammar; give it one by answers="),
        ({"regex": "["}, r"regex='\[' is not valid"),
        ({"regex": "a(?=b)b"}, r"finds no text for .*a\(\?=b\)b.* by answers="),
        ({"json_schema": {"type": "integer", "not": {}}}, "finds no text for .*json_schema.*"),
        ({"json_schema": {"type": "strng"}}, "'strng' is not valid|no type 'strng'"),
        ({"json_schema": {"$ref": "#/$defs/a"}}, "#/.defs/a is not in it"),
        ({"json_schema": {"$ref": "other.json"}}, "other.json is not in it"),
        (
            {"json_schema": {"properties": {"a": {"$ref": "#"}}, "required": ["a"]}},
            "contains itself without an end",
        ),
    ],
    ids=str,
)
def test_what_it_cannot_make_is_refused(
    service: VLLMService, options: dict[str, Any], says: str
) -> None:
    with service, pytest.raises(InvalidRequestError, match=says):
        service.generate("words", **options)


# -- answers, time and failures on demand ----------------------------------------------------------


@pytest.fixture
def serve(model_root: Path) -> Iterator[Callable[..., VLLMService]]:
    """A function that opens a service on an engine with arguments."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> VLLMService:
            config = {"model_id": "test/echo", "model_root": model_root}
            factory = partial(EchoEngine, **arguments)
            return stack.enter_context(VLLMService(config, engine_factory=factory))

        yield make


def test_answers_are_found_by_the_prompt(serve: Callable[..., VLLMService]) -> None:
    answers = {"open?": "yes,  it is", "who?": {"name": "Ada"}}
    service = serve(answers=answers)
    said, other = service.generate(["open?", "closed?"])
    (who,) = service.generate(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "who?"}],
        json_schema={"type": "object"},
    )
    assert (said["text"], other["text"]) == ("yes,  it is", "closed?")
    assert said["tokens_used"] == {"prompt": 1, "completion": 3, "total": 4}
    assert who["parsed"] == {"name": "Ada"}
    assert "".join(service.stream("open?")) == "yes,  it is"


def test_a_function_is_given_the_whole_prompt(serve: Callable[..., VLLMService]) -> None:
    asked: list[Any] = []

    def answer(prompt: Any) -> str | None:
        asked.append(prompt)
        return "42" if isinstance(prompt, list) else None

    service = serve(answers=answer)
    chat = [{"role": "system", "content": "Count."}, {"role": "user", "content": "6 x 7"}]
    assert [each["text"] for each in service.generate([chat, "6 x 7"])] == ["42", "6 x 7"]
    assert asked == [chat, "6 x 7"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"choice": ["yes", "no"]}, r"'maybe' given to .* it is none of choice=\['yes', 'no'\]"),
        ({"regex": "yes|no"}, "'maybe' given to .* regex='yes|no' does not match it"),
        ({"json_schema": {"type": "object"}}, "'maybe' given to .* it is no JSON"),
    ],
)
def test_an_answer_that_no_model_could_give_is_refused(
    serve: Callable[..., VLLMService], options: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        serve(answers={"sure?": "maybe"}).generate("sure?", **options)


def test_an_answer_may_be_an_error(serve: Callable[..., VLLMService]) -> None:
    error = EngineDeadError("test/echo", "no memory")

    def fails(prompt: Any) -> str:
        raise LookupError(prompt)

    with pytest.raises(EngineDeadError, match="no memory"):
        serve(answers={"boom": error}).generate(["fine", "boom"])
    with pytest.raises(LookupError, match="anything"):
        serve(answers=fails).generate("anything")


def test_requests_wait_side_by_side(serve: Callable[..., VLLMService]) -> None:
    prompts = ["one", "two", *map(str, range(200))]
    slow = serve(latency=600)
    waiting = slow.generate_async(prompts)
    assert slow.stats()["in_flight"] == 202
    assert waiting.cancel()
    service = serve(latency=0.2)
    began = time.monotonic()
    assert [each["text"] for each in service.generate(prompts)[:2]] == ["one", "two"]
    assert 0.2 <= time.monotonic() - began < 202 * 0.2 / 2  # what they take one after the other
    assert service.stats()["in_flight"] == 0
    assert service.embed("one")["dim"] == 8


def test_a_deadline_before_the_answer_leaves_no_text(serve: Callable[..., VLLMService]) -> None:
    (late,) = serve(latency=30).generate("one two", deadline=0.05)
    assert (late["text"], late["finish_reason"]) == ("", "deadline")
    (soon,) = serve(latency=0.01).generate("one two", deadline=30)
    assert (soon["text"], soon["finish_reason"]) == ("one two", "stop")


def test_what_waits_can_be_cancelled_and_ends_with_the_service(
    serve: Callable[..., VLLMService],
) -> None:
    service = serve(latency=30)
    cancelled, left = service.generate_async("one"), service.generate_async("two")
    assert cancelled.cancel()
    with pytest.raises(CancelledError):
        cancelled.result()
    assert service.stats()["in_flight"] == 1
    service.close()
    with pytest.raises(EngineClosedError):
        left.result(60)


def test_a_drain_answers_what_waits_and_then_refuses() -> None:
    engine = EchoEngine(EngineSpec(model_id="test/echo", path=Path()), latency=0.1)
    waiting = engine.submit("one", {})
    engine.close(drain=True)
    assert waiting.result(0).completions[0].text == "one"
    for text in ("late", "later"):
        with pytest.raises(EngineClosedError):
            engine.submit(text, {})
    engine.close()


def test_answers_of_another_kind_are_refused() -> None:
    wrong: Any = ["yes"]
    with pytest.raises(TypeError, match=r"a dict by prompt or a function, not \['yes'\]"):
        EchoEngine(EngineSpec(model_id="test/echo", path=Path()), answers=wrong)


def test_the_docstrings_run_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    for text in (echo_engine.__doc__, EchoEngine.__doc__):
        (sample,) = re.findall(r"::\n\n(.*?)(?:\n(?=\S)|\Z)", inspect.cleandoc(text or ""), re.S)
        exec(inspect.cleandoc("\n" + sample), known)
    assert capsys.readouterr().out == "one two\nyes\n"
