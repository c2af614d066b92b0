"""Answers of a server that misbehaves: which are errors, which pass, and what is kept of them."""

from __future__ import annotations

import json
import pickle
import time
from typing import TYPE_CHECKING, Any

import pytest
from chat_server import Reply

from sage.common.components.endpoint_error import EndpointError
from sage.common.components.sage_embedding import get_embedding_model
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.operators.errors import NoAnswerError
from sage.libs.rag.generator import OpenAIGenerator

if TYPE_CHECKING:
    from chat_server import ChatServer

pytestmark = pytest.mark.timeout(240)

TOOL_CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


class Impatient(OpenAIGenerator):
    retry_backoff = 0.001


def run(
    server: ChatServer, records: list[Any], **arguments: Any
) -> tuple[list[Any], list[FailedRecord]]:
    out: list[Any] = []
    letters: list[FailedRecord] = []
    env = LocalEnvironment("openai")
    env.from_collection(records).map(
        Impatient, "tiny", server.base_url, api_key="k", on_error=letters.append, **arguments
    ).sink(out.append)
    env.submit()
    return out, letters


def completion(*messages: Any, finish_reason: str = "stop") -> str:
    choices = [
        {"index": n, "message": message, "finish_reason": finish_reason}
        for n, message in enumerate(messages)
    ]
    return json.dumps({"id": "c", "object": "chat.completion", "model": "m", "choices": choices})


# -- errors in place of an answer -----------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body='{"error": {"message": "busy", "code": 429}}'),
        Reply(body='{"error": {"message": "busy", "code": "502"}}'),
        Reply(body='{"error": {"message": "busy", "type": "overloaded_error"}}'),
        Reply(body='{"error": {"message": "busy", "code": "rate_limit_exceeded"}}'),
        Reply(body='{"error": {"message": "busy", "type": "internal_server_error"}}'),
        Reply(body='{"object": "error", "message": "busy", "code": 503}'),
        Reply(body='{"id": "c", "choices": [{"mess'),
        Reply(body=""),
        Reply(body=completion({"content": "a long answer"}), cut=True),
    ],
    ids=lambda reply: reply.body[:60],
)
def test_what_may_pass_is_tried_again(server: ChatServer, reply: Reply) -> None:
    server.replies = [reply, reply]
    out, letters = run(server, ["hello"])
    assert letters == []
    assert [record["generated"] for record in out] == ["hello"]
    assert len(server.requests) == 3
    server.replies = [reply] * 9
    out, (letter,) = run(server, ["hello"], retries=1)
    assert out == []
    assert isinstance(letter.error, EndpointError)
    assert (letter.attempts, letter.error.retryable) == (2, True)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ('{"error": {"message": "no such model", "code": 404}}', 404, "no such model; check base"),
        ('{"error": {"message": "bad", "code": 400}}', 400, "answered 400: bad"),
        ('{"error": {"message": "who knows"}}', 200, "answered 200: who knows"),
        ('{"error": "in one word"}', 200, "answered 200: in one word"),
        ('{"choices": null}', 200, "no chat completion but"),
        ('{"choices": []}', 200, "no chat completion but"),
        ('{"choices": {}}', 200, "no chat completion but"),
        ('{"choices": [null]}', 200, "a choice without a message"),
        (completion(None), 200, "a choice without a message"),
        (completion({"role": "assistant", "content": {"x": 1}}), 200, "the content is no text"),
        ("[]", 200, "no chat completion but \\[\\]"),
        ("<html>502 Bad Gateway</html>", 200, "no chat completion but '<html>502"),
    ],
)
def test_what_will_not_pass_fails_at_once_and_alone(
    server: ChatServer, body: str, status: int, says: str
) -> None:
    server.replies = [Reply(body=body)]
    out, (letter,) = run(server, ["first", "second"], max_in_flight=1)
    assert [record["generated"] for record in out] == ["second"]
    with pytest.raises(EndpointError, match=says):
        raise letter.error
    assert isinstance(letter.error, EndpointError)
    assert (letter.attempts, letter.error.status, letter.error.retryable) == (1, status, False)
    again = pickle.loads(pickle.dumps(letter.error))
    assert (str(again), vars(again)) == (str(letter.error), vars(letter.error))


# -- answers without a text -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "finish_reason", "kept", "says"),
    [
        ({"refusal": "I will not"}, "stop", {"refusal": "I will not"}, "refuses: 'I will not'"),
        ({"tool_calls": TOOL_CALLS}, "tool_calls", {"tool_calls": TOOL_CALLS}, "calls of tools"),
        ({"reasoning": "Hm"}, "length", {"reasoning": "Hm"}, "reasoning: 'Hm'; raise max_tokens"),
        ({"reasoning_content": "Hm"}, "length", {"reasoning": "Hm"}, "but reasoning: 'Hm'"),
        ({}, "content_filter", {}, r"no text \(finish_reason 'content_filter'\)$"),
    ],
)
@pytest.mark.parametrize("empty", [{"content": None}, {}])
def test_no_text_is_an_error_that_keeps_what_came(
    server: ChatServer,
    message: dict[str, Any],
    finish_reason: str,
    kept: dict[str, Any],
    says: str,
    empty: dict[str, Any],
) -> None:
    body = completion({"role": "assistant", **empty, **message}, finish_reason=finish_reason)
    server.replies = [Reply(body=body)]
    out, (letter,) = run(server, ["hello"])
    assert out == []
    with pytest.raises(NoAnswerError, match=says):
        raise letter.error
    assert isinstance(letter.error, NoAnswerError)
    assert letter.attempts == 1
    assert letter.error.details["finish_reason"] == finish_reason
    assert {k: letter.error.details.get(k) for k in kept} == kept
    again = pickle.loads(pickle.dumps(letter.error))
    assert (str(again), again.details) == (str(letter.error), letter.error.details)


def test_an_empty_text_is_an_answer_unless_something_comes_in_its_place(
    server: ChatServer,
) -> None:
    server.replies = [Reply(body=completion({"content": ""}))]
    ((record,), _) = run(server, ["hello"])
    assert record["generated"] == ""
    server.replies = [Reply(body=completion({"content": "", "tool_calls": TOOL_CALLS}))]
    out, (letter,) = run(server, ["hello"])
    assert out == []
    assert isinstance(letter.error, NoAnswerError)


def test_what_comes_beside_a_text_is_in_the_details(server: ChatServer) -> None:
    message = {"content": "Paris", "reasoning": "France. Hm.", "refusal": None, "tool_calls": []}
    server.replies = [Reply(body=completion(message))]
    ((record,), letters) = run(server, ["hello"])
    assert (record["generated"], letters) == ("Paris", [])
    assert record["generation"]["reasoning"] == "France. Hm."
    assert not {"refusal", "tool_calls"} & set(record["generation"])
    assert record["generation"]["tokens_used"] is None


def test_a_text_in_parts_is_one_text(server: ChatServer) -> None:
    parts = [{"type": "text", "text": "Par"}, {"type": "text", "text": "is"}]
    server.replies = [Reply(body=completion({"content": parts}))]
    ((record,), _) = run(server, ["hello"])
    assert record["generated"] == "Paris"


def test_one_choice_of_several_may_have_no_text(server: ChatServer) -> None:
    server.replies = [Reply(body=completion({"refusal": "no"}, {"content": "yes"}))]
    ((record,), _) = run(server, ["hello"], n=2)
    assert record["generated"] == "yes"
    assert [choice["text"] for choice in record["generation"]["choices"]] == [None, "yes"]
    server.replies = [Reply(body=completion({"refusal": "no"}, {"refusal": "never"}))]
    _, (letter,) = run(server, ["hello"], n=2)
    assert isinstance(letter.error, NoAnswerError)
    assert [c["refusal"] for c in letter.error.details["choices"]] == ["no", "never"]


# -- the configuration as a dict ------------------------------------------------------------------


def test_a_dict_says_where_the_prompts_go(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    config = {"model_name": "tiny", "base_url": server.base_url, "api_key": "secret", "seed": 5}
    out: list[Any] = []
    env = LocalEnvironment("openai")
    stream = env.from_collection(["hello"])
    stream.map(OpenAIGenerator, {"method": "openai", **config}).sink(out.append)
    env.submit()
    operator = OpenAIGenerator({**config, "max_tokens": 1}, temperature=0)
    assert operator.execute("one two")["generated"] == "one"
    operator.cleanup()
    assert out[0]["generated"] == "hello"
    first, second = server.requests
    assert (first["model"], first["key"], first["seed"]) == ("tiny", "Bearer secret", 5)
    assert (second["max_tokens"], second["temperature"]) == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        ([None], {}, TypeError, "model is the model's name on the server, or a dict"),
        ([7], {}, TypeError, "not 7"),
        ([{"model_name": 7}], {}, TypeError, "not 7"),
        ([{"base_url": "http://localhost/v1"}], {}, ValueError, "has no 'model_name'"),
        ([{"model_name": "m", "base_url": "x"}, "y"], {}, ValueError, "'base_url' twice"),
        ([{"model_name": "m", "seed": 1}], {"seed": 2}, ValueError, "'seed' twice"),
        ([{"model_name": "m", "model": "n"}], {}, ValueError, "'model' twice"),
        ([{"model_name": "m", "method": "hf"}], {}, ValueError, "'openai' alone, not 'hf'"),
        ([{"model_name": "m", "base_url": None}], {}, ValueError, "'base_url' is None.*to OpenAI"),
        ([""], {}, ValueError, "model is empty"),
    ],
)
def test_a_dict_that_is_not_clear_is_refused(
    arguments: list[Any], options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        OpenAIGenerator(*arguments, **options)


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ({"base_url": "127.0.0.1:8000/v1"}, "base_url must be .*not '127.0.0.1:8000/v1'"),
        ({"base_url": ""}, "'http://localhost:8000/v1', not ''"),
        ({"base_url": " http://localhost/v1"}, "not ' http://localhost/v1'"),
        ({"base_url": 8000}, "not 8000"),
        ({"api_key": "sk-secret\n"}, "api_key has a blank or a line at an end"),
        ({"api_key": "sk-secret\u00f6"}, "a letter that no header can hold"),
    ],
)
def test_what_is_no_address_or_key_is_told_at_once_and_no_key_is_shown(
    server: dict[str, Any], says: str
) -> None:
    given = {"base_url": "http://127.0.0.1:1/v1", "api_key": "k", **server}
    env = LocalEnvironment("openai")
    env.from_collection(["hello"]).map(OpenAIGenerator, "m", **given).print()
    began = time.monotonic()
    for refused in (env.submit, lambda: get_embedding_model("openai", model="m", **given)):
        with pytest.raises(ValueError, match=says) as caught:
            refused()
        assert "secret" not in str(caught.value)
    assert time.monotonic() - began < 10  # patience= is not used up


def test_a_key_of_a_dict_that_nobody_knows_stops_before_any_record(server: ChatServer) -> None:
    config = {"model_name": "m", "base_url": server.base_url, "api_key": "k", "temprature": 1}
    env = LocalEnvironment("openai")
    env.from_collection(["hello"]).map(OpenAIGenerator, config).print()
    with pytest.raises(
        ValueError, match=r"unknown option 'temprature'.*did you mean 'temperature'"
    ):
        env.submit()
    assert server.requests == []
