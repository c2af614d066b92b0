"""Tools and validators that run in a pipeline, on an engine that says what it is told to."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, field_validator

from sage.common.components.sage_vllm import InvalidAnswerError
from sage.common.components.sage_vllm.testing import CannedAnswer
from sage.kernel.api import FailedRecord, LocalEnvironment
from sage.libs.io import JSONLSink, JSONLSource
from sage.libs.operators import (
    ToolCallError,
    ToolTimeoutError,
    UnfinishedAnswerError,
    VLLMServiceGenerator,
)
from sage.middleware.services.vllm import register_vllm_service

pytest_plugins = ["sage.libs.testing"]

Run = Callable[..., list[Any]]


def rain(city: str) -> str:
    """Say whether it rains in a city."""
    return f"{city}: dry"


async def sun(city: str, hours: int) -> dict[str, Any]:
    """Say how long the sun shines."""
    return {"city": city, "hours": hours}


def fails(city: str) -> str:
    raise OSError(f"no line to {city}")


def asks(prompt: Any) -> Any:
    """Ask for the rain in the city that was named, then say what came of it."""
    last = prompt[-1]
    if last["role"] == "tool":
        return f"I hear: {last['content']}"
    return CannedAnswer(tool_calls=[("rain", {"city": last["content"]})])


@pytest.fixture
def run(sage_env: LocalEnvironment, echo_service: Callable[..., Any]) -> Run:
    """A function that has records answered, and returns what came out."""

    def start(records: list[Any], answers: Any, **arguments: Any) -> list[Any]:
        register_vllm_service(sage_env, service=echo_service(answers=answers))
        on_error = arguments.pop("on_error", None)
        options = {} if on_error is None else {"on_error": on_error}
        stream = sage_env.from_collection(records)
        return stream.map(VLLMServiceGenerator, **arguments, **options).collect()

    return start


def test_tools_run_and_the_model_answers(run: Run) -> None:
    records = [{"id": n, "prompt": f"Oslo{n}"} for n in range(40)]
    answered = run(records, asks, tools=[rain], run_tools=True)
    assert [each["id"] for each in answered] == list(range(40))
    assert answered[7]["generated"] == "I hear: Oslo7: dry"
    assert answered[7]["messages"] == [
        {"role": "user", "content": "Oslo7"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call00000", "name": "rain", "arguments": {"city": "Oslo7"}}],
        },
        {"role": "tool", "tool_call_id": "call00000", "name": "rain", "content": "Oslo7: dry"},
        {"role": "assistant", "content": "I hear: Oslo7: dry"},
    ]
    assert answered[7]["generation"]["tokens_used"]["completion"] == 4
    assert answered[7]["generation"]["finish_reason"] == "stop"


def test_a_prompt_may_have_any_of_its_forms(run: Run) -> None:
    message = {"role": "user", "content": "Oslo"}
    forms = ["Oslo", message, [message], {"messages": [message]}]
    answered = run([{"prompt": form} for form in forms], asks, tools=[rain], run_tools=True)
    assert [each["generated"] for each in answered] == ["I hear: Oslo: dry"] * 4
    assert all(each["messages"][0] == message for each in answered)


def test_by_default_calls_are_left_to_whoever_comes_next(run: Run) -> None:
    (answered,) = run([{"prompt": "Oslo"}], asks, tools=[rain])
    assert answered["generated"] == ""
    (call,) = answered["generation"]["tool_calls"]
    assert (call["name"], call["arguments"]) == ("rain", {"city": "Oslo"})
    assert answered["generation"]["finish_reason"] == "tool_calls"
    assert "messages" not in answered


def test_several_calls_run_side_by_side_and_coroutines_too(run: Run) -> None:
    def both(prompt: Any) -> Any:
        if prompt[-1]["role"] == "tool":
            return " / ".join(each["content"] for each in prompt if each["role"] == "tool")
        return CannedAnswer(
            tool_calls=[("sun", {"city": "Rome", "hours": 3}), ("rain", {"city": "Oslo"})]
        )

    (answered,) = run(["?"], both, tools=[rain, sun], run_tools=True)
    assert answered["generated"] == '{"city": "Rome", "hours": 3} / Oslo: dry'


def test_a_mistake_is_told_once_and_then_is_the_records_error(run: Run) -> None:
    def once(prompt: Any) -> Any:
        told = [each["content"] for each in prompt if each["role"] == "tool"]
        if not told:
            return CannedAnswer(tool_calls=[("rian", {"city": "Oslo"})])
        return told[0]

    def twice(prompt: Any) -> Any:
        return CannedAnswer(tool_calls=[("rain", {"town": "Oslo"})])

    (answered,) = run(["?"], once, tools=[rain], run_tools=True)
    assert answered["generated"] == "Error: there is no tool 'rian'; did you mean 'rain'?"


def test_a_mistake_that_is_made_again_is_the_records_error(
    run: Run, sage_env: LocalEnvironment
) -> None:
    def twice(prompt: Any) -> Any:
        if prompt[0]["content"] == "fine":
            return "fine too"
        return CannedAnswer(tool_calls=[("rain", {"town": "Oslo"})])

    failed: list[FailedRecord] = []
    (answered,) = run(["bad", "fine"], twice, tools=[rain], run_tools=True, on_error=failed.append)
    assert answered["generated"] == "fine too"
    assert isinstance(failed[0].error, ToolCallError)
    assert "rain does not accept these arguments: city: Missing required" in str(failed[0].error)


def test_a_tools_exception_is_told_or_raised(run: Run) -> None:
    def asks_both(prompt: Any) -> Any:
        if prompt[-1]["role"] == "tool":
            return prompt[-1]["content"]
        return CannedAnswer(tool_calls=[("fails", {"city": "Oslo"})])

    (answered,) = run(["?"], asks_both, tools=[fails], run_tools=True)
    assert answered["generated"] == "Error: OSError: no line to Oslo"


def test_a_tools_exception_can_be_the_records_error(run: Run) -> None:
    answers = {"?": CannedAnswer(tool_calls=[("fails", {"city": "Oslo"})])}
    with pytest.raises(OSError, match="no line to Oslo"):
        run(["?"], answers, tools=[fails], run_tools=True, tool_errors="raise")


def ends_the_program(city: str) -> str:
    raise SystemExit(f"enough of {city}")


def test_a_tool_that_ends_the_program_is_not_told_to_the_model(run: Run) -> None:
    answers = {"?": CannedAnswer(tool_calls=[("ends_the_program", {"city": "Oslo"})])}
    with pytest.raises(SystemExit, match="enough of Oslo"):
        run(["?"], answers, tools=[ends_the_program], run_tools=True, on_error="skip")


def test_a_model_that_never_answers_is_stopped(run: Run) -> None:
    def more(prompt: Any) -> Any:
        return CannedAnswer(tool_calls=[("rain", {"city": "Oslo"})])

    with pytest.raises(ToolCallError, match=r"after 3 turns the model still asks.*raise max_turns"):
        run(["?"], more, tools=[rain], run_tools=True, max_turns=3)


def test_a_call_that_must_be_made_is_made_once(run: Run) -> None:
    (answered,) = run(["in Oslo?"], None, tools=[rain], run_tools=True, tool_choice="required")
    assert [message["role"] for message in answered["messages"]] == [
        "user", "assistant", "tool", "assistant",
    ]  # fmt: skip


def test_a_slow_tool_delays_no_other_record(run: Run) -> None:
    began = time.monotonic()
    done: dict[str, float] = {}
    release = threading.Event()

    def slow(city: str) -> str:
        """Be slow in one city."""
        if city == "city0":
            release.wait(200)
        done[city] = time.monotonic() - began
        if len(done) == 300 - 1 and city != "city0":
            release.set()
        return city

    def ask(prompt: Any) -> Any:
        if prompt[-1]["role"] == "tool":
            return prompt[-1]["content"]
        return CannedAnswer(tool_calls=[("slow", {"city": prompt[-1]["content"]})])

    cities = [f"city{n}" for n in range(300)]
    answered = run(
        cities, ask, tools=[slow], run_tools=True, tool_timeout=240, max_in_flight=64,
        ordered=False,
    )  # fmt: skip
    assert len(answered) == 300
    assert max(done, key=done.__getitem__) == "city0"  # it let go only when all others had ended


def test_a_tool_has_so_long_and_its_thread_is_replaced(run: Run) -> None:
    release = threading.Event()

    def hangs(city: str) -> str:
        """Hang."""
        release.wait(30)
        return city

    def ask(prompt: Any) -> Any:
        if prompt[-1]["role"] == "tool":
            return prompt[-1]["content"]
        return CannedAnswer(tool_calls=[("hangs", {"city": prompt[-1]["content"]})])

    try:
        answered = run(
            [f"c{n}" for n in range(300)], ask, tools=[hangs], run_tools=True, tool_timeout=0.2,
            max_in_flight=300,
        )  # fmt: skip
    finally:
        release.set()
    assert {each["generated"] for each in answered} == {
        "Error: the tool 'hangs' did not end within 0.2 s"
    }


def test_a_timeout_can_be_the_records_error(run: Run) -> None:
    release = threading.Event()

    def hangs(city: str) -> str:
        """Hang."""
        release.wait(30)
        return city

    answers = {"?": CannedAnswer(tool_calls=[("hangs", {"city": "Oslo"})])}
    with pytest.raises(ToolTimeoutError, match=r"'hangs' did not end within 0\.1 s"):
        run(["?"], answers, tools=[hangs], run_tools=True, tool_timeout=0.1, tool_errors="raise")
    release.set()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"run_tools": True}, "run_tools=True without tools"),
        ({"tools": [{"function": {"name": "rain"}}], "run_tools": True}, "only the schema"),
        ({"max_turns": 0}, "max_turns must be a whole number, 1 or more, not 0"),
        ({"tool_timeout": 0}, "tool_timeout must be seconds above 0, not 0"),
        ({"tool_timeout": "5"}, "tool_timeout must be seconds above 0, not '5'"),
        ({"tool_errors": "ignore"}, 'tool_errors must be "tell" or "raise"'),
        ({"validate": "yes"}, "validate must be a function of an answer"),
        ({"reasks": -1}, "reasks must be a whole number, 0 or more"),
    ],
)
def test_what_has_no_sense_is_refused_at_once(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VLLMServiceGenerator(**arguments)


def test_it_travels_with_its_tools_and_classes() -> None:
    operator = VLLMServiceGenerator(
        tools=[rain], run_tools=True, json_schema=Ticket, validate=polite
    )
    other = pickle.loads(pickle.dumps(operator))
    assert other.options == operator.options
    assert other.options["json_schema"].kind is Ticket
    assert other._rules.tools.run("rain", {"city": "Oslo"}) == "Oslo: dry"


def test_with_a_checkpoint_each_record_is_answered_once(
    sage_env: LocalEnvironment, echo_service: Callable[..., Any], tmp_path: Path
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"c{n}"}) + "\n" for n in range(60)))
    service = echo_service(answers=asks)
    calls: list[str] = []
    broken = True

    def rain(city: str) -> str:
        """Say whether it rains in a city."""
        calls.append(city)
        if city == "c40" and broken:
            raise RuntimeError("no line")
        return f"{city}: dry"

    def start() -> None:
        with LocalEnvironment("again") as env:
            register_vllm_service(env, service=service)
            env.from_source(JSONLSource, source).map(
                VLLMServiceGenerator, tools=[rain], run_tools=True, max_in_flight=4,
                prefix_order="off", tool_errors="raise",
            ).sink(JSONLSink, output)  # fmt: skip
            env.submit(checkpoint=tmp_path / "checkpoint")

    with pytest.raises(RuntimeError, match="no line"):
        start()
    broken = False
    start()
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [f"c{n}" for n in range(60)]
    assert all(line["generated"] == f"I hear: {line['prompt']}: dry" for line in lines)
    assert len(calls) - len(set(calls)) <= 8  # those in flight, of which none had been written


# -- thinking, classes, validators ----------------------------------------------------------------


def test_thinking_is_apart_from_the_answer(run: Run) -> None:
    answers = {"?": CannedAnswer(reasoning="one two three", text="yes")}
    (answered,) = run(["?"], answers, system_prompt="")
    assert answered["generated"] == "yes"
    assert answered["generation"]["reasoning"] == "one two three"
    assert answered["generation"]["tokens_used"]["reasoning"] == 3


def test_an_option_of_conversations_makes_one_of_a_text(run: Run) -> None:
    answers = {"?": CannedAnswer(reasoning="one two three", text="yes")}
    (answered,) = run(["?"], answers, thinking=2)
    assert answered["prompt"] == "?"
    assert answered["generation"]["reasoning"] == "one two"


def test_cut_off_while_it_thinks_is_an_error(run: Run) -> None:
    answers = {"?": CannedAnswer(reasoning="one two three", text="yes")}
    says = "ended .*'length'.* within the model's thinking 'one two'; raise max_tokens"
    with pytest.raises(UnfinishedAnswerError, match=says) as raised:
        run(["?"], answers, system_prompt="", max_tokens=2)
    assert raised.value.reasoning == "one two"


class Ticket(BaseModel):
    kind: Literal["bug", "wish"]
    size: int

    @field_validator("size")
    @classmethod
    def small(cls, value: int) -> int:
        if value > 9:
            raise ValueError("at most 9")
        return value


def test_a_class_gives_fields_or_its_objects(run: Run) -> None:
    answers = {"?": {"kind": "bug", "size": 3}}
    (answered,) = run(["?"], answers, json_schema=Ticket)
    assert (answered["kind"], answered["size"]) == ("bug", 3)


def test_a_class_gives_its_objects(run: Run) -> None:
    answers = {"?": {"kind": "bug", "size": 3}}
    (answered,) = run(["?"], answers, json_schema=Ticket, merge_fields=False)
    assert answered["generated"] == Ticket(kind="bug", size=3)


def test_what_its_class_refuses_is_asked_for_again_once(run: Run) -> None:
    asked: list[Any] = []

    def answer(prompt: Any) -> Any:
        asked.append(prompt)
        return {"kind": "bug", "size": 12 if len(asked) == 1 else 5}

    (answered,) = run(["How big?"], answer, json_schema=Ticket, system_prompt="Be exact.")
    assert answered["size"] == 5
    assert [message["role"] for message in asked[1]] == ["system", "user", "assistant", "user"]
    assert asked[1][-1]["content"] == (
        "This answer is not valid: size: Value error, at most 9. "
        "Answer again, without that mistake."
    )
    assert answered["generation"]["tokens_used"]["completion"] > 4  # of both


def test_asking_again_is_bounded(run: Run) -> None:
    asked: list[Any] = []

    def answer(prompt: Any) -> Any:
        asked.append(prompt)
        return {"kind": "bug", "size": 12}

    with pytest.raises(InvalidAnswerError, match="not valid: size: Value error, at most 9"):
        run(["How big?"], answer, json_schema=Ticket, reasks=2)
    assert len(asked) == 3


def polite(answer: str) -> None:
    if "please" not in answer:
        raise ValueError("it does not say please")


def test_a_validator_says_what_is_wrong(run: Run) -> None:
    def answer(prompt: Any) -> Any:
        return "tea please" if "does not say please" in str(prompt) else "tea"

    answered = run(["drink?", [{"role": "user", "content": "drink?"}]], answer, validate=polite)
    assert [each["generated"] for each in answered] == ["tea please"] * 2


async def polite_by_coroutine(answer: str) -> None:
    polite(answer)


def is_polite(answer: str) -> bool:
    return "please" in answer


@pytest.mark.parametrize("validator", [polite_by_coroutine, is_polite])
def test_a_validator_may_be_a_coroutine_or_say_no(run: Run, validator: Any) -> None:
    answers, failed = {"rude": "go away", "nice": "go, please"}, list[FailedRecord]()
    arguments = {"validate": validator, "reasks": 0, "on_error": failed.append}
    (record,) = run(["nice", "rude"], answers, **arguments)
    assert record["generated"] == "go, please"
    (letter,) = failed
    assert isinstance(letter.error, InvalidAnswerError)
    assert letter.error.reason in ("it does not say please", "is_polite is False of it")


def test_a_validator_that_is_never_content_is_the_records_error(run: Run) -> None:
    with pytest.raises(InvalidAnswerError, match="'tea' is not valid: it does not say please"):
        run(["drink?"], lambda _: "tea", validate=polite)
