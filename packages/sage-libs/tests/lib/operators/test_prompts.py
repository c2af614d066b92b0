"""Templates, system prompts and options of records, as they reach the service."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from sage.common.components.sage_vllm.errors import InvalidInputError
from sage.common.components.sage_vllm.service import VLLMService
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.operators.prompts import PromptTemplate
from sage.libs.operators.vllm_service import VLLMEmbeddingOperator, VLLMServiceGenerator

pytestmark = pytest.mark.timeout(240)

SYSTEM = {"role": "system", "content": "Be brief."}


class ListeningService(VLLMService):
    """Notes what it is called with."""

    calls: list[tuple[Any, dict[str, Any]]] = []  # noqa: RUF012 - emptied by the fixture

    def generate_async(self, prompts: Any, **options: Any) -> Future[Any]:
        one = prompts["messages"] if isinstance(prompts, dict) else prompts
        self.calls.append((one, options))
        return super().generate_async(prompts, **options)


@pytest.fixture
def listening(environment: Any) -> LocalEnvironment:
    ListeningService.calls.clear()
    return environment(service=ListeningService)


# -- templates --------------------------------------------------------------------------------


def test_a_template_makes_the_prompt_of_a_dicts_fields(env: LocalEnvironment, run: Any) -> None:
    records = [{"title": "Ice", "n": 2.5, "text": "Ice {melts}."}]
    template = "In {n:.2f} words on {title!r}, as {{}}: {text}"
    (record,) = run(env, records, VLLMServiceGenerator, prompt_template=template)
    assert record["generated"] == "In 2.50 words on 'Ice', as {}: Ice {melts}."
    assert "prompt" not in record
    assert record["text"] == "Ice {melts}."


def test_what_comes_by_itself_is_named_by_the_prompt_key(env: LocalEnvironment, run: Any) -> None:
    records = ["ice", ["kept", "snow"], [{"tone": "sadly"}, "rain"]]
    out = run(
        env, records, VLLMServiceGenerator,
        prompt_key="topic", prompt_template="about {topic}", details_key=None,
    )  # fmt: skip
    assert out == [
        {"topic": "ice", "generated": "about ice"},
        ["kept", "about snow"],
        {"tone": "sadly", "generated": "about rain"},
    ]


def test_a_template_sees_the_fields_of_a_pairs_original(env: LocalEnvironment, run: Any) -> None:
    template = "{prompt} {tone} {tags[0]}"
    records = [[{"tone": "sadly", "tags": ["x"]}, "rain"]]
    (record,) = run(env, records, VLLMServiceGenerator, prompt_template=template)
    assert record["generated"] == "rain sadly x"


@pytest.mark.parametrize(
    ("record", "template", "message"),
    [
        (
            {"title": "Ice"},
            "Summarise: {text}",
            "the record has no field 'text', which prompt_template 'Summarise: {text}' names; "
            "it has ['title']",
        ),
        ({"a": {}}, "{a[b]}", "prompt_template '{a[b]}' does not fit the record: KeyError('b')"),
        ({"a": 1}, "{a.b}", "'int' object has no attribute 'b'"),
        ({"a": "x"}, "{a:.2f}", "Unknown format code 'f'"),
        ({"a": "x"}, "{a:>{width}}", "the record has no field 'width'"),
        (7, "{prompt}", "a record must be a string, a dict with the key 'prompt'"),
        (
            {"a": ""},
            "{a}",
            "the record's 'a' is '', and prompt_template '{a}' needs it; {a?} stands for a field "
            "that may be empty or missing",
        ),
        ({"a": None}, "about {a!s:>9}", "the record's 'a' is None, and"),
        ({"a": " \n"}, "about {a}", r"the record's 'a' is ' \n', and"),
        ({"a": float("nan")}, "about {a:.1f}", "the record's 'a' is nan, and"),
        ({"a": []}, "about {a}", "the record's 'a' is [], and"),
        ({"a": {"b": None}}, "about {a[b]}", "the record's 'a[b]' is None, and"),
        ({"b": "x"}, "{a?}", "the prompt is empty"),
        (
            {"id": 1, "text": "x"},
            "{txt}",
            "names; it has ['id', 'text'] - did you mean 'text'? {{ and }} stand for braces",
        ),
        (
            "ice",
            "about {text}",
            "the record is 'ice', which has no field 'text' as prompt_template",
        ),
        ([{"a": 1}, {"a": 2}, {"a": 3}], "{a}", "a list of 3 records is no record"),
        ("  ", "{prompt}", "the record's 'prompt' is blank, which is nothing to work on: '  '"),
    ],
)
def test_a_record_that_does_not_fit_its_template_fails_alone(
    env: LocalEnvironment, run: Any, record: Any, template: str, message: str
) -> None:
    letters: list[FailedRecord] = []
    run(env, [record], VLLMServiceGenerator, prompt_template=template, on_error=letters.append)
    (letter,) = letters
    assert isinstance(letter.error, ValueError)
    assert message in str(letter.error)


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"a": "ice", "b": {"c": 2}}, "ice: 2.0"),
        ({"a": "ice", "b": None}, "ice: "),
        ({"a": "ice"}, "ice: "),
        ({"a": " ", "b": {"c": 0}}, ": 0.0"),
        ({"a": False, "b": {}}, "False: "),
    ],
)
def test_a_field_with_a_question_mark_may_be_empty_or_missing(
    record: dict[str, Any], text: str
) -> None:
    template = PromptTemplate("{a?}: {b[c]?:.1f}")
    assert template.names == ("a", "b")
    assert template.render(record) == text


def test_a_number_that_is_zero_is_not_empty() -> None:
    assert PromptTemplate("{n} {flag}").render({"n": 0, "flag": False}) == "0 False"


@pytest.mark.parametrize(
    "template", ["{}", "{0}", "{text", "text}", '{"a": 1} {}', '{"a": "b"}: {text}']
)
def test_a_template_that_no_record_can_fill_is_refused_at_once(template: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be filled in.*write {field} for a field"):
        VLLMServiceGenerator(prompt_template=template)


def test_an_embedding_may_have_a_template(env: LocalEnvironment, run: Any) -> None:
    (by_template,) = run(
        env, [{"q": "ice"}], VLLMEmbeddingOperator, text_template="query: {q}"
    )  # fmt: skip
    assert set(by_template) == {"q", "embedding"}
    with pytest.raises(ValueError, match=r"text_template '{}' cannot be filled in"):
        VLLMEmbeddingOperator(text_template="{}")


def test_a_template_changes_what_is_embedded(environment: Any, run: Any) -> None:
    (whole,) = run(environment(), ["query: ice"], VLLMEmbeddingOperator)
    (made,) = run(environment(), ["ice"], VLLMEmbeddingOperator, text_template="query: {text}")
    (bare,) = run(environment(), ["ice"], VLLMEmbeddingOperator)
    assert made == {"text": "ice", "embedding": whole["embedding"]}
    assert made["embedding"] != bare["embedding"]


def test_a_list_of_texts_becomes_a_list_of_vectors(env: LocalEnvironment, run: Any) -> None:
    records = [{"text": ["ice", "snow"]}, {"text": "ice"}, {"text": ["ice"]}]
    several, one, list_of_one = run(env, records, VLLMEmbeddingOperator)
    assert [len(vector) for vector in several["embedding"]] == [8, 8]
    assert several["embedding"][0] == one["embedding"]
    assert list_of_one["embedding"] == [one["embedding"]]


# -- system prompts ---------------------------------------------------------------------------


def test_a_system_prompt_goes_before_every_prompt(listening: LocalEnvironment, run: Any) -> None:
    own = [{"role": "system", "content": "Sing."}, {"role": "user", "content": "hello"}]
    asked = [{"role": "user", "content": "hello"}]
    out = run(
        listening, ["hello", asked, own], VLLMServiceGenerator, system_prompt=SYSTEM["content"]
    )
    prompts = [prompt for prompt, _ in ListeningService.calls]
    assert prompts == [[SYSTEM, *asked], [SYSTEM, *asked], own]
    assert [record["prompt"] for record in out] == ["hello", asked, own]
    assert [record["generated"] for record in out] == ["hello"] * 3


def test_a_system_prompt_and_a_template_go_together(listening: LocalEnvironment, run: Any) -> None:
    run(
        listening, [{"text": "hello"}], VLLMServiceGenerator,
        system_prompt="Be brief.", prompt_template="Say {text}",
    )  # fmt: skip
    assert [prompt for prompt, _ in ListeningService.calls] == [
        [SYSTEM, {"role": "user", "content": "Say hello"}]
    ]


@pytest.mark.parametrize("prompt", ["", None, 7, []])
def test_a_system_prompt_makes_no_bad_prompt_good(
    env: LocalEnvironment, run: Any, prompt: Any
) -> None:
    letters: list[FailedRecord] = []
    run(
        env, [{"prompt": prompt}], VLLMServiceGenerator,
        system_prompt="Be brief.", on_error=letters.append,
    )  # fmt: skip
    assert [type(letter.error) for letter in letters] == [InvalidInputError]


# -- options of records -----------------------------------------------------------------------


def test_a_records_options_go_before_the_operators(listening: LocalEnvironment, run: Any) -> None:
    records = [
        {"prompt": "a b c", "how": {"max_tokens": 1}},
        {"prompt": "a b c"},
        {"prompt": "a b c", "how": None},
        [{"how": {"max_tokens": 3}}, "a b c"],
        "a b c",
    ]
    out = run(
        listening, records, VLLMServiceGenerator, options_key="how", max_tokens=2, temperature=0
    )
    assert [r["generated"] for r in out] == ["a", "a b", "a b", "a b c", "a b"]
    assert [options for _, options in ListeningService.calls] == [
        {"max_tokens": limit, "temperature": 0} for limit in (1, 2, 2, 3, 2)
    ]


def test_options_are_only_read_where_they_are_asked_for(env: LocalEnvironment, run: Any) -> None:
    (record,) = run(env, [{"prompt": "a b c", "options": "put, call"}], VLLMServiceGenerator)
    assert (record["generated"], record["options"]) == ("a b c", "put, call")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("max_tokens=3", "the record's 'options' must be a dict, not 'max_tokens=3'"),
        ({"max_token": 3}, "unknown sampling option 'max_token' in the record's options; did you"),
        ({"method": "stats"}, "unknown sampling option 'method'"),
        ({"on_error": "return"}, "unknown sampling option 'on_error'"),
    ],
)
def test_bad_options_fail_their_record_alone(
    env: LocalEnvironment, run: Any, options: Any, message: str
) -> None:
    letters: list[FailedRecord] = []
    records = [{"prompt": "a"}, {"prompt": "b", "options": options}]
    out = run(
        env, records, VLLMServiceGenerator, options_key="options", on_error=letters.append
    )  # fmt: skip
    assert [record["prompt"] for record in out] == ["a"]
    (letter,) = letters
    assert isinstance(letter.error, ValueError)
    assert message in str(letter.error)
