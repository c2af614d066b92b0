"""Tools: what models are told of them, and the calls that are read from their answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field, field_validator

from sage.common.components.sage_vllm.errors import (
    InvalidAnswerError,
    InvalidOptionError,
    InvalidRequestError,
)
from sage.common.components.sage_vllm.requests.chat.tools import tool_schemas
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.chat_templates import TOOLS

ASK = [{"role": "user", "content": "Rain in Oslo?"}]
CITY = {"type": "string", "enum": ["Oslo", "Rome"]}
SUN = {
    "type": "function",
    "function": {
        "name": "sun",
        "parameters": {
            "type": "object",
            "properties": {"city": CITY, "hours": {"enum": [1, 2, 3]}},
            "required": ["city", "hours"],
            "additionalProperties": False,
        },
    },
}


# -- what a model is told of a function -----------------------------------------------------------


def forecast(
    city: str, days: Annotated[int, Field(ge=1, le=9)] = 1, unit: Literal["C", "F"] = "C"
) -> str:
    """Say what the weather will be.

    It is always fine.
    """
    return f"fine in {city}"


def test_a_function_says_of_itself_what_a_model_needs_to_know() -> None:
    (schema,) = tool_schemas([forecast])
    assert schema["type"] == "function"
    function = schema["function"]
    assert function["name"] == "forecast"
    assert function["description"] == "Say what the weather will be.\n\nIt is always fine."
    parameters = function["parameters"]
    assert parameters["required"] == ["city"]
    assert parameters["properties"]["days"]["maximum"] == 9
    assert parameters["properties"]["unit"]["enum"] == ["C", "F"]
    jsonschema.Draft202012Validator.check_schema(parameters)
    assert tool_schemas([*TOOLS, forecast])[0] == TOOLS[0]


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ([lambda city: city], "no name that a model could call it by; define it with def"),
        ([forecast, forecast], "two tools are named 'forecast'"),
        ([{"name": "rain"}], "is no tool; a tool is a function, or {'type'"),
        ([print], "print"),
    ],
)
def test_what_is_no_tool_is_refused(tools: list[Any], says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        tool_schemas(tools)


# -- what vLLM's parsers make of a text -----------------------------------------------------------

OSLO = ("rain", {"city": "Oslo"})
CASES = [
    (
        "hermes",
        '<tool_call>\n{"name": "rain", "arguments": {"city": "Oslo"}}\n</tool_call>',
        "",
        [OSLO],
    ),
    (
        "hermes",
        'Let me see. <tool_call>{"name": "rain", "arguments": {"city": "Oslo"}}</tool_call>'
        '<tool_call>{"name": "sun", "arguments": {"city": "Rome", "hours": 2}}</tool_call>',
        "Let me see. ",
        [OSLO, ("sun", {"city": "Rome", "hours": 2})],
    ),
    ("hermes", "no call at all", "no call at all", []),
    (
        "qwen3_coder",
        "<tool_call>\n<function=rain>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>",
        "",
        [OSLO],
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=sun>\n<parameter=city>\nRome\n</parameter>\n<parameter=hours>\n3\n"
        "</parameter>\n</function>\n</tool_call>",
        "",
        [("sun", {"city": "Rome", "hours": 3})],
    ),
    ("qwen3_coder", "no call at all", "no call at all", []),
    ("llama3_json", '{"name": "rain", "parameters": {"city": "Oslo"}}', "", [OSLO]),
    (
        "llama3_json",
        '{"name": "rain", "parameters": {"city": "Oslo"}}; '
        '{"name": "sun", "parameters": {"city": "Rome", "hours": 1}}',
        "",
        [OSLO, ("sun", {"city": "Rome", "hours": 1})],
    ),
    ("llama3_json", "no call at all", "no call at all", []),
    ("pythonic", "[rain(city='Oslo')]", "", [OSLO]),
    (
        "pythonic",
        "[rain(city='Oslo'), sun(city='Rome', hours=2)]",
        "",
        [OSLO, ("sun", {"city": "Rome", "hours": 2})],
    ),
    ("pythonic", "no call at all", "no call at all", []),
]


@pytest.mark.parametrize(("parser", "text", "answer", "calls"), CASES)
def test_calls_are_read_as_vllm_reads_them(
    readers: Any, tokenizer: Any, parser: str, text: str, answer: str, calls: list[Any]
) -> None:
    from vllm import SamplingParams
    from vllm.tool_parsers import ToolParserManager

    ids = tokenizer.encode(text, add_special_tokens=False)
    options = {"tools": [*TOOLS, SUN]}
    reader = readers(tools=parser).prepare(
        ASK, options, {"prompt_token_ids": [5, 6]}, SamplingParams(), {}
    )
    read = reader.read(text, ids)
    assert [(call.name, call.arguments) for call in read.tool_calls] == calls
    assert [call.id for call in read.tool_calls] == ["call00000", "call00001"][: len(calls)]
    assert read.text == answer
    assert read.reasoning is None
    theirs = ToolParserManager.get_tool_parser(parser)(tokenizer, reader._request.tools)
    found = theirs.extract_tool_calls(text, reader._request)
    assert [
        (each.function.name, json.loads(each.function.arguments)) for each in found.tool_calls
    ] == calls
    stream = reader.stream()
    pieces, shown = [], ""
    for count in range(1, len(ids) + 1):
        so_far = tokenizer.decode(ids[:count])
        pieces += stream.feed(so_far[len(shown) :], ids[:count], finished=count == len(ids))
        shown = so_far
    assert "".join(pieces).strip() == answer.strip()


def test_a_parser_that_does_not_fit_is_named(readers: Any) -> None:
    from vllm import SamplingParams

    rendered = {"prompt_token_ids": [5, 6]}
    with pytest.raises(InvalidRequestError, match=r"does not fit 'test/thinks'.*tool_call_parser"):
        readers(tools="jamba").prepare(ASK, {"tools": TOOLS}, rendered, SamplingParams(), {})
    options = {"tools": TOOLS, "chat_template": "{{ tools }} {{ messages[0].content }}"}
    with pytest.raises(InvalidRequestError, match=r"nothing says how .* writes its calls of tools"):
        readers().prepare(ASK, options, rendered, SamplingParams(), {})


# -- on the engine --------------------------------------------------------------------------------


def test_required_calls_follow_the_schemas(thinker: VLLMService) -> None:
    schemas = {each["function"]["name"]: each["function"]["parameters"] for each in (*TOOLS, SUN)}
    prompts = [[{"role": "user", "content": f"question {n}"}] for n in range(300)]
    results = thinker.generate(
        prompts, tools=[*TOOLS, SUN], tool_choice="required", thinking=3, temperature=1, seed=5,
        max_tokens=400,
    )  # fmt: skip
    valid = 0
    for result in results:
        assert result["finish_reason"] == "tool_calls"
        assert result["reasoning"]
        for call in result["tool_calls"]:
            jsonschema.validate(call["arguments"], schemas[call["name"]])
        valid += bool(result["tool_calls"])
    assert valid == 300


def test_one_tool_may_be_named(thinker: VLLMService) -> None:
    for choice in ("sun", {"name": "sun"}, {"type": "function", "function": {"name": "sun"}}):
        (result,) = thinker.generate(
            ASK, tools=[*TOOLS, SUN], tool_choice=choice, thinking=False, max_tokens=100
        )
        assert {call["name"] for call in result["tool_calls"]} == {"sun"}
    (stream,) = [
        thinker.stream(ASK, tools=[*TOOLS, SUN], tool_choice="sun", thinking=False, max_tokens=100)
    ]
    assert "".join(stream).strip() == result["text"].strip() == ""
    assert stream.result["tool_calls"] == result["tool_calls"]


def test_tools_are_offered_and_nothing_is_called_by_default(thinker: VLLMService) -> None:
    for choice in ("auto", None):
        (offered,) = thinker.generate(
            ASK, tools=TOOLS, tool_choice=choice, thinking=3, max_tokens=9
        )
        assert offered["tool_calls"] == []
        assert offered["text"]
    (none,) = thinker.generate(ASK, tools=TOOLS, tool_choice="none", thinking=3, max_tokens=9)
    assert "tool_calls" not in none
    (plain,) = thinker.generate(ASK, thinking=3, max_tokens=9)
    item = {"messages": ASK, "options": {"tools": TOOLS}}
    counts = [each["tokens_used"]["prompt"] for each in (plain, none)]
    assert thinker.count_tokens([{"messages": ASK}, item]) == counts
    assert counts[0] < counts[1]


def test_a_schema_binds_the_answer_and_leaves_calls_free(
    thinker: VLLMService, tokenizer: Any, readers: Any
) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    schema = SUN["function"]["parameters"]
    (brace,) = tokenizer.encode("{", add_special_tokens=False)
    options = {"tools": TOOLS, "json_schema": schema, "thinking": False, "max_tokens": 800}
    options |= {"temperature": 1, "seed": 5}  # greedily it would call for ever
    called, answered = thinker.generate(
        [
            {"messages": ASK, "options": {"logit_bias": {brace: -20}}},
            {"messages": ASK, "options": {"logit_bias": {brace: 20}}},
        ],
        **options,
    )
    assert called["tool_calls"]
    assert called["parsed"] is None
    assert answered["tool_calls"] == []
    jsonschema.validate(answered["parsed"], schema)
    params = SamplingParams(structured_outputs=StructuredOutputsParams(json=schema))
    rendered = {"prompt_token_ids": [5, 6]}
    with pytest.raises(InvalidRequestError, match="whose calls 'pythonic' reads cannot both"):
        readers(tools="pythonic").prepare(ASK, {"tools": TOOLS}, rendered, params, {})


def test_calls_are_counted_through_a_conversation(thinker: VLLMService) -> None:
    options = {"tools": TOOLS, "tool_choice": "required", "thinking": False, "max_tokens": 60}
    (first,) = thinker.generate(ASK, **options)
    (call, *_) = first["tool_calls"]
    told = {"role": "tool", "tool_call_id": call["id"], "name": call["name"], "content": "yes"}
    said = {"role": "assistant", "content": first["text"], "tool_calls": first["tool_calls"]}
    (second,) = thinker.generate([[*ASK, said, told]], **options)
    assert call["id"] == "call00000"
    assert second["tool_calls"][0]["id"] == f"call{len(first['tool_calls']):05}"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tool_choice": "required"}, "'required' without tools.*pass tools= too"),
        ({"tools": TOOLS, "tool_choice": "rian"}, "none of the tools; did you mean 'rain'"),
        ({"tools": "rain"}, "tools.*a list of functions or of their schemas"),
        (
            {"tools": TOOLS, "tool_choice": "required", "regex": "a"},
            "tool_choice 'required' and a structure of the text exclude each other",
        ),
    ],
)
def test_an_option_without_sense_is_refused(
    thinker: VLLMService, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        thinker.generate(ASK, **options)


# -- classes --------------------------------------------------------------------------------------


class Verdict(BaseModel):
    sure: bool
    side: Literal["left", "right"]


@dataclass
class Place:
    side: Literal["left", "right"]


class Never(BaseModel):
    sure: bool

    @field_validator("sure")
    @classmethod
    def refuse(cls, value: Any) -> bool:
        raise ValueError("nobody is")


def test_a_class_gets_its_objects_back(thinker: VLLMService) -> None:
    for kind in (Verdict, Place):
        (result,) = thinker.generate(ASK, json_schema=kind, thinking=2, max_tokens=60)
        assert isinstance(result["parsed"], kind)
        assert result["parsed"].side in ("left", "right")
        (cut,) = thinker.generate(ASK, json_schema=kind, thinking=False, max_tokens=2)
        assert cut["parsed"] is None


def test_what_a_class_refuses_is_the_prompts_error(thinker: VLLMService) -> None:
    with pytest.raises(InvalidAnswerError, match="is not valid: sure: Value error, nobody is"):
        thinker.generate(ASK, json_schema=Never, thinking=False, max_tokens=60)
    items = [{"messages": ASK, "options": {"json_schema": Never}}, {"messages": ASK}]
    failed, fine = thinker.generate(items, thinking=False, max_tokens=20, on_error="return")
    assert failed["error"]["type"] == "InvalidAnswerError"
    assert fine["text"]
