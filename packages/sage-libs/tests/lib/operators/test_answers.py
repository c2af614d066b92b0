"""What becomes of answers: JSON's fields, answers that are cut off, what a deadline leaves."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.operators.errors import UnfinishedAnswerError
from sage.libs.operators.vllm_service import VLLMServiceGenerator

pytestmark = pytest.mark.timeout(240)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}}
ANSWER = {"city": "Paris", "n": 2}
TEXT = json.dumps(ANSWER)  # what the engine says where this is the prompt


# -- JSON -------------------------------------------------------------------------------------


def test_the_fields_of_the_json_go_into_the_record(env: LocalEnvironment, run: Any) -> None:
    records = [{"id": 1, "prompt": TEXT, "city": "unknown"}, TEXT, [{"id": 2}, TEXT], ["x", TEXT]]
    out = run(env, records, VLLMServiceGenerator, json_schema=SCHEMA, details_key=None)
    assert out == [
        {"id": 1, "prompt": TEXT, **ANSWER},
        {"prompt": TEXT, **ANSWER},
        {"id": 2, **ANSWER},
        ["x", ANSWER],
    ]


def test_the_object_can_be_kept_whole(env: LocalEnvironment, run: Any) -> None:
    (record,) = run(
        env, [{"prompt": TEXT, "city": "unknown"}], VLLMServiceGenerator,
        json_schema=SCHEMA, merge_fields=False, output_key="answer",
    )  # fmt: skip
    assert set(record) == {"prompt", "city", "answer", "answer_details"}
    assert (record["city"], record["answer"]) == ("unknown", ANSWER)
    assert record["answer_details"]["finish_reason"] == "stop"
    assert not {"text", "parsed"} & set(record["answer_details"])


def test_a_second_generator_keeps_the_details_of_the_first(
    environment: Callable[..., LocalEnvironment], caplog: pytest.LogCaptureFixture
) -> None:
    def judged(**details: Any) -> dict[str, Any]:
        stream = environment().from_collection(["one two"] * 3).map(VLLMServiceGenerator)
        judge = stream.map(VLLMServiceGenerator, output_key="verdict", max_tokens=1, **details)
        record: dict[str, Any] = judge.collect()[0]
        return record

    record = judged()
    assert record["generation"]["finish_reason"] == "stop"
    assert record["verdict_details"]["finish_reason"] == "length"
    assert not caplog.records
    record = judged(details_key="generation")  # as it is told to, but not without a word
    assert record["generation"]["finish_reason"] == "length"
    (said,) = caplog.records
    assert "records have a field 'generation' already, and the details" in said.getMessage()


def test_json_that_is_no_object_goes_under_the_output_key(env: LocalEnvironment, run: Any) -> None:
    (record,) = run(
        env, ["[1, 2]"], VLLMServiceGenerator, json_schema={"type": "array"}, details_key=None
    )
    assert record == {"prompt": "[1, 2]", "generated": [1, 2]}


def test_a_record_may_have_a_schema_of_its_own(env: LocalEnvironment, run: Any) -> None:
    own = {"json_schema": SCHEMA}
    records = [{"prompt": TEXT, "options": own}, {"prompt": TEXT}]
    with_own, without = run(
        env, records, VLLMServiceGenerator, options_key="options", details_key=None
    )
    assert with_own == {"prompt": TEXT, "options": own, **ANSWER}
    assert without == {"prompt": TEXT, "generated": TEXT}


def test_half_an_object_is_never_emitted(env: LocalEnvironment, run: Any) -> None:
    letters: list[FailedRecord] = []
    records = [{"id": n, "prompt": TEXT, "options": {"max_tokens": n}} for n in range(1, 6)]
    out = run(
        env, records, VLLMServiceGenerator,
        json_schema=SCHEMA, options_key="options", on_error=letters.append,
    )  # fmt: skip
    words = len(TEXT.split())
    assert [record["id"] for record in out] == list(range(words, 6))
    assert [letter.record["id"] for letter in letters] == list(range(1, words))
    error = letters[0].error
    assert isinstance(error, UnfinishedAnswerError)
    assert (error.text, error.finish_reason) == ('{"city":', "length")
    assert "(finish_reason 'length') before its JSON was complete; raise max_tokens" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_half_a_number_is_never_emitted(environment: Any, run: Any) -> None:
    class StopsAnywhere(EchoEngine):
        def submit(self, prompt: Any, options: Mapping[str, Any], *rest: Any) -> Future[Any]:
            done = super().submit(prompt, options, *rest)
            generation = done.result()
            cut = replace(generation.completions[0], text=prompt[:2], finish_reason="length")
            late: Future[Any] = Future()
            late.set_result(replace(generation, completions=[cut]))
            return late

    with pytest.raises(UnfinishedAnswerError, match="'12'"):
        run(environment(StopsAnywhere), ["123"], VLLMServiceGenerator, json_schema={})


NULLABLE = {"type": ["integer", "null"]}


class Unbound(EchoEngine):
    """Says its prompt whatever the schema is, as an answer that was cut off anywhere."""

    def submit(self, prompt: Any, options: Mapping[str, Any], *rest: Any) -> Future[Any]:
        return super().submit(prompt, {**options, "json_schema": None}, *rest)


def test_a_null_is_an_answer(env: LocalEnvironment, run: Any) -> None:
    (record,) = run(env, ["null"], VLLMServiceGenerator, json_schema=NULLABLE)
    assert record["generated"] is None
    assert record["generation"]["finish_reason"] == "stop"


@pytest.mark.parametrize("text", ["nul", "None", "NaN null"])
def test_what_is_no_json_is_no_null(environment: Any, run: Any, text: str) -> None:
    with pytest.raises(UnfinishedAnswerError):
        run(environment(Unbound), [text], VLLMServiceGenerator, json_schema=NULLABLE)


def test_a_null_that_was_cut_off_is_no_answer(environment: Any, run: Any) -> None:
    cut = {"json_schema": NULLABLE, "max_tokens": 1}
    with pytest.raises(UnfinishedAnswerError, match="'null'"):
        run(environment(Unbound), ["null or not"], VLLMServiceGenerator, **cut)


def test_a_field_that_the_details_would_replace_is_an_error_of_its_record(
    env: LocalEnvironment, run: Any
) -> None:
    text = '{"generation": 3}'
    own = {"json_schema": {"type": "object", "properties": {"generation": {"type": "integer"}}}}
    records = [{"prompt": text, "options": own}, {"prompt": text}]
    letters: list[FailedRecord] = []
    (out,) = run(env, records, VLLMServiceGenerator, options_key="options", on_error=letters.append)
    assert out["generated"] == text
    assert [letter.record for letter in letters] == records[:1]
    assert "the answer has a field 'generation', where details_key puts" in str(letters[0].error)


def test_a_record_can_do_without_the_operators_schema(env: LocalEnvironment, run: Any) -> None:
    records = [{"prompt": "in words", "options": {"json_schema": None}}]
    (record,) = run(
        env, records, VLLMServiceGenerator, json_schema=SCHEMA, options_key="options"
    )  # fmt: skip
    assert record["generated"] == "in words"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"json_schema": TEXT}, "json_schema in .* must be a JSON schema as a dict"),
        (
            {"json_schema": {"properties": {"generation": {}}}},
            "json_schema has a property 'generation', where details_key puts the rest",
        ),
        ({"json_schema": SCHEMA, "choice": ["a", "b"]}, "a text can follow only one"),
    ],
)
def test_a_schema_that_cannot_be_is_refused_at_once(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        VLLMServiceGenerator(**arguments)


# -- deadlines --------------------------------------------------------------------------------


class HurriedEngine(EchoEngine):
    """Gets no further than the first word where there is a deadline."""

    def submit(self, prompt: Any, options: Mapping[str, Any], *rest: Any) -> Future[Any]:
        done = super().submit(prompt, options, *rest)
        if "deadline" not in options:
            return done
        generation = done.result()
        first = generation.completions[0]
        cut = replace(first, text=first.text.split()[0], finish_reason="deadline", token_count=1)
        late: Future[Any] = Future()
        late.set_result(replace(generation, completions=[cut]))
        return late


def test_a_record_at_its_deadline_goes_on_with_what_there_is(environment: Any, run: Any) -> None:
    (record,) = run(environment(HurriedEngine), ["one two"], VLLMServiceGenerator, deadline=0.5)
    assert record["generated"] == "one"
    assert record["generation"]["finish_reason"] == "deadline"
    assert record["generation"]["tokens_used"]["completion"] == 1


def test_each_record_may_have_a_deadline_of_its_own(environment: Any, run: Any) -> None:
    records = [{"prompt": "one two", "options": {"deadline": 0.5}}, {"prompt": "one two"}]
    out = run(environment(HurriedEngine), records, VLLMServiceGenerator, options_key="options")
    assert [record["generated"] for record in out] == ["one", "one two"]


def test_json_at_its_deadline_is_no_object(environment: Any, run: Any) -> None:
    with pytest.raises(
        UnfinishedAnswerError, match=r"\(finish_reason 'deadline'\).*; raise deadline"
    ):
        run(environment(HurriedEngine), [TEXT], VLLMServiceGenerator,
            json_schema=SCHEMA, deadline=0.5)  # fmt: skip


@pytest.mark.parametrize("deadline", [0, -1, "soon", True])
def test_a_deadline_is_seconds(deadline: Any) -> None:
    with pytest.raises(ValueError, match="deadline in VLLMServiceGenerator must be seconds"):
        VLLMServiceGenerator(deadline=deadline)
