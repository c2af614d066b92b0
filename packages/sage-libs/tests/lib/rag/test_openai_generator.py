"""OpenAIGenerator against a local server that can be told to fail, to hold back and to hang."""

from __future__ import annotations

import json
import pickle
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from sage.common.components.endpoint_error import EndpointError
from sage.common.components.sage_vllm import InvalidAnswerError
from sage.common.core.errors import RecordTimeoutError
from sage.common.core.functions import AsyncMapFunction
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.operators.errors import UnfinishedAnswerError
from sage.libs.rag.generator import OpenAIGenerator

if TYPE_CHECKING:
    from chat_server import ChatServer

pytestmark = pytest.mark.timeout(240)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


class Impatient(OpenAIGenerator):
    retry_backoff = 0.001


def run(
    records: list[Any], server: ChatServer | str, operator: Any = Impatient, **arguments: Any
) -> list[Any]:
    out: list[Any] = []
    url = server if isinstance(server, str) else server.base_url
    arguments.setdefault("api_key", "a key")
    env = LocalEnvironment("openai")
    env.from_collection(records).map(operator, "tiny", url, **arguments).sink(out.append)
    env.submit()
    return out


# -- records ----------------------------------------------------------------------------------


def test_records_come_out_as_those_of_the_vllm_operator(server: ChatServer) -> None:
    conversation = [{"role": "user", "content": "one two"}, {"role": "user", "content": "three"}]
    records = ["one two", {"id": 1, "prompt": "one"}, ["original", "one"], conversation]
    from_string, from_dict, pair, from_conversation = run(records, server, max_tokens=1)
    details = from_string.pop("generation")
    assert from_string == {"prompt": "one two", "generated": "one"}
    assert details.pop("latency") > 0
    assert details == {
        "finish_reason": "length",
        "tokens_used": {"prompt": 2, "completion": 1, "total": 3},
        "model_id": "tiny",
        "request_id": "chat-1",
    }
    assert (from_dict["id"], from_dict["generated"]) == (1, "one")
    assert pair == ["original", "one"]
    assert (from_conversation["prompt"], from_conversation["generated"]) == (conversation, "three")


def test_template_system_prompt_and_options_reach_the_server(server: ChatServer) -> None:
    records = [{"text": "ice", "how": {"max_tokens": 3}}, {"text": "snow"}]
    out = run(
        records, server,
        prompt_template="Summarise this: {text}", system_prompt="Be brief.", options_key="how",
        temperature=0, max_tokens=2, extra_body={"top_k": 5}, api_key="secret", max_in_flight=1,
    )  # fmt: skip
    assert [record["generated"] for record in out] == ["Summarise this: ice", "Summarise this:"]
    assert server.requests[0] == {
        "key": "Bearer secret",
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Summarise this: ice"},
        ],
        "temperature": 0,
        "max_tokens": 3,
        "top_k": 5,
    }


def test_several_choices_are_all_there(server: ChatServer) -> None:
    (record,) = run(["one"], server, n=2)
    assert record["generation"]["choices"] == [{"text": "one", "finish_reason": "stop"}] * 2


def test_json_goes_into_the_record_and_half_of_it_never(server: ChatServer) -> None:
    letters: list[FailedRecord] = []
    text = json.dumps({"city": "Paris"})
    records = [{"prompt": text}, {"prompt": text, "how": {"max_tokens": 1}}, {"prompt": "no json"}]
    out = run(
        records, server,
        json_schema=SCHEMA, options_key="how", details_key=None, on_error=letters.append,
    )  # fmt: skip
    assert out == [{"prompt": text, "city": "Paris"}]
    errors = [letter.error for letter in letters]
    assert [type(error) for error in errors] == [UnfinishedAnswerError] * 2
    assert "raise max_tokens" in str(errors[0])
    assert server.requests[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    }


@dataclass
class Place:
    city: str
    people: int


def test_a_class_gives_fields_and_objects_and_refuses(server: ChatServer) -> None:
    text = json.dumps({"city": "Paris", "people": 2})
    (record,) = run([text], server, json_schema=Place)
    assert (record["city"], record["people"]) == ("Paris", 2)
    (record,) = run([text], server, json_schema=Place, merge_fields=False)
    assert record["generated"] == Place("Paris", 2)
    sent = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert sent["required"] == ["city", "people"]
    with pytest.raises(InvalidAnswerError, match="people: Input should be a valid integer"):
        run([json.dumps({"city": "Paris", "people": "many"})], server, json_schema=Place)


# -- in flight --------------------------------------------------------------------------------


def test_256_records_are_in_flight_from_one_thread(server: ChatServer) -> None:
    own_threads: set[str] = set()

    def note(record: Any) -> Any:
        own_threads.update(
            thread.name for thread in threading.enumerate() if "process_request" not in thread.name
        )
        return record

    before = {thread.name for thread in threading.enumerate()}
    server.together = threading.Barrier(256)
    out: list[Any] = []
    env = LocalEnvironment("openai")
    stream = env.from_collection([f"record {n}" for n in range(512)])
    stream.map(OpenAIGenerator, "tiny", server.base_url, api_key="k").map(note).sink(out.append)
    env.submit()
    assert [record["generated"] for record in out] == [f"record {n}" for n in range(512)]
    assert sum("sage-chat-endpoint" in name for name in own_threads) == 1
    assert len(own_threads - before) < 64  # asyncio looks hosts up in a few threads, not in 256
    assert not any("sage-chat-endpoint" in thread.name for thread in threading.enumerate())


def test_a_record_that_takes_too_long_ends_its_request(server: ChatServer) -> None:
    server.hangs = True
    with pytest.raises(RecordTimeoutError, match=r"'Impatient' had no result within 2\.5 s"):
        run(["hello"], server, timeout=2.5)  # by when the server has it
    assert server.abandoned.get(timeout=60) == "hello"


def test_closing_the_environment_ends_all_requests(server: ChatServer) -> None:
    server.hangs = True
    env = LocalEnvironment("openai")
    records = [f"record {n}" for n in range(20)]
    stream = env.from_collection(records)
    stream.map(OpenAIGenerator, "tiny", server.base_url, api_key="k").sink(print)
    env.submit(autostop=False)
    for _ in records:
        server.hanging.get(timeout=60)
    env.close()
    assert sorted(server.abandoned.get(timeout=60) for _ in records) == sorted(records)
    with pytest.raises(PipelineCancelledError):
        env.wait()


def test_one_record_can_be_asked_for_without_a_pipeline(server: ChatServer) -> None:
    operator = OpenAIGenerator("tiny", server.base_url, api_key="k", details_key=None)
    assert operator.execute("hello") == {"prompt": "hello", "generated": "hello"}
    operator.cleanup()
    assert operator.execute("again") == {"prompt": "again", "generated": "again"}
    operator.cleanup()
    operator.cleanup()


# -- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_what_may_pass_is_tried_again(server: ChatServer, status: int) -> None:
    server.failures = [status, status]
    (record,) = run(["hello"], server)
    assert record["generated"] == "hello"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "answered 400: told to fail"),
        (401, "answered 401: told to fail; pass api_key= or set OPENAI_API_KEY"),
        (404, "answered 404: told to fail; check base_url, which mostly ends in /v1, and model"),
    ],
)
def test_what_will_not_pass_fails_at_once_and_alone(
    server: ChatServer, status: int, message: str
) -> None:
    server.failures = [status]
    letters: list[FailedRecord] = []
    out = run(["a", "b"], server, on_error=letters.append, max_in_flight=1)
    assert [record["generated"] for record in out] == ["b"]
    (letter,) = letters
    assert isinstance(letter.error, EndpointError)
    assert f"{server.base_url}/chat/completions {message}" in str(letter.error)
    assert (letter.attempts, letter.error.status, letter.error.retryable) == (1, status, False)
    assert str(pickle.loads(pickle.dumps(letter)).error) == str(letter.error)


def test_a_server_that_stays_down_is_given_up_on(server: ChatServer) -> None:
    server.failures = [503] * 9
    letters: list[FailedRecord] = []
    run(["a"], server, retries=2, on_error=letters.append)
    assert [letter.attempts for letter in letters] == [3]
    assert len(server.requests) == 3


def test_no_server_is_an_error_that_says_where(unused_port: int) -> None:
    letters: list[FailedRecord] = []
    url = f"http://127.0.0.1:{unused_port}/v1"
    run(["a"], url, retries=1, on_error=letters.append)
    (letter,) = letters
    assert isinstance(letter.error, EndpointError)
    assert letter.attempts == 2
    assert str(letter.error).startswith(f"no answer from {url}/chat/completions: ")
    assert str(letter.error).endswith("; is the server running?")


@pytest.mark.parametrize(
    "says", ['{"hello": 1}', '{"choices": []}', "<html>", '"' + 9999 * "x" + '"']
)
def test_what_is_no_completion_is_an_error_of_its_record(server: ChatServer, says: str) -> None:
    server.says = says
    letters: list[FailedRecord] = []
    run(["a"], server, on_error=letters.append)
    (letter,) = letters
    assert isinstance(letter.error, EndpointError)
    assert (letter.attempts, letter.error.status) == (1, 200)
    assert len(str(letter.error)) < 400


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "x"}, "the record has no key 'prompt'"),
        ("", "prompt 0 is empty"),
        (7, "a record must be a string"),
        ({"prompt": "a", "how": {"max_token": 1}}, "unknown option 'max_token' in the record's"),
        ({"prompt": "a", "how": {"stream": True}}, "unknown option 'stream'"),
    ],
)
def test_a_bad_record_reaches_no_server(server: ChatServer, record: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run([record], server, options_key="how")
    assert server.requests == []


def test_a_missing_key_stops_before_any_record(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="pass api_key= or set OPENAI_API_KEY"):
        run(["a"], server, api_key=None)
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    run(["a"], server, api_key=None)
    assert server.requests[0]["key"] == "Bearer from the environment"


def test_an_unknown_option_stops_before_any_record(server: ChatServer) -> None:
    message = r"unknown option 'top_k' in OpenAIGenerator.*extra_body=\{'top_k': \.\.\.\}"
    with pytest.raises(ValueError, match=message):
        run(["a"], server, top_k=5)
    assert server.requests == []
    assert not any("sage-chat-endpoint" in thread.name for thread in threading.enumerate())


def test_it_is_an_asynchronous_map_of_a_picklable_pipeline(server: ChatServer) -> None:
    assert issubclass(OpenAIGenerator, AsyncMapFunction)
    env = LocalEnvironment("openai")
    env.from_collection(["a"]).map(OpenAIGenerator, "tiny", server.base_url, json_schema=SCHEMA)
    assert pickle.loads(pickle.dumps(env.operators)) == env.operators
