"""`sage llm run` as a chat, in a terminal."""

from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING

import pytest
from command_line import TIMEOUT, Terminal, wait_for_the_end

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from command_line import CommandLine

MODEL = "test/endless"
BASE = "test/base"
PROMPT = ">>>"
READY = "\x1b[?25h"  # the cursor is back behind the prompt
SHORT = ("-t", "0", "--max-tokens", "3")


@pytest.fixture
def root(endless_root: Path) -> Path:
    return endless_root


class Chat:
    """A chat in a terminal, one message at a time."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal

    def say(self, text: str, until: str = "", end: str = "\r") -> str:
        """Type a line at the next prompt; returns what is printed up to `until`."""
        self.terminal.read_next(PROMPT)
        self.terminal.read_next(READY)
        self.terminal.type(text + end)
        return self.terminal.read_next(until) if until else ""

    def leave(self) -> None:
        self.say("\x04", end="")
        assert self.terminal.finish() == 0


@pytest.fixture
def chat(sage: CommandLine) -> Callable[..., Chat]:
    def start(*options: str, columns: int = 100, **extra: str) -> Chat:
        # This terminal does not answer when it is asked where its cursor is.
        return Chat(
            sage.terminal(
                *("llm", "run", MODEL, *options),
                columns=columns,
                PROMPT_TOOLKIT_NO_CPR="1",
                **extra,
            )
        )

    return start


def messages(path: Path) -> list[dict[str, str]]:
    return json.loads(path.read_text())["messages"]


def test_a_conversation_is_remembered_saved_loaded_and_cleared(
    chat: Callable[..., Chat], tmp_path: Path
) -> None:
    talk, file = chat(*SHORT, "--system", "Be brief.", columns=40), tmp_path / "chat.json"
    talk.say("Hello", "first after")
    talk.say("two\\\rlines", "first after")
    talk.say("pasted\x1b[200~\nlines\x1b[201~\x1b\rand more", "first after")
    talk.say(f"/save {file}", "Saved 7 messages")
    system, *turns = messages(file)
    assert system == {"role": "system", "content": "Be brief."}
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 3
    assert [turn["content"] for turn in turns[::2]] == [
        *("Hello", "two\nlines", "pasted\nlines\nand more"),
    ]
    stats = talk.say("/stats", "Speed:")
    assert "Conversation: 6 messages" in stats
    assert "Answers:      3" in stats
    used = int(stats.partition("Context:")[2].split()[0])
    talk.say("/clear", "A new conversation begins.")
    assert "Context:      0 of 32,768" in talk.say("/stats", "Speed:")
    talk.say(f"/load {file}", "Loaded 7 messages")
    assert f"Context:      {used} of 32,768" in talk.say("/stats", "Speed:")
    talk.say("/system Be rude.")
    talk.say("/system", "Be rude.")
    talk.say(f"/save {file}", "Saved 7 messages")
    assert messages(file) == [{"role": "system", "content": "Be rude."}, *turns]
    talk.say("/exit")
    assert talk.terminal.finish() == 0


def test_no_mistake_ends_a_chat(chat: Callable[..., Chat], tmp_path: Path) -> None:
    talk, other = chat(*SHORT, "--max-model-len", "256"), tmp_path / "other.json"
    other.write_text('{"precious": "data"}')
    assert "Did you mean '/help'?" in talk.say("/hlep", "blank before it")
    assert "/clear" in talk.say("/help", "Ctrl-D leaves")
    talk.say("/set temprature 1", "Did you mean 'temperature'?")
    assert "whole number" in talk.say("/set seed red", "Hint: ")
    talk.say("/set seed 4")
    assert "seed 4" in talk.say("/set", "temperature 0.0")
    talk.say("/set seed default")
    talk.say("/set ignore_eos true")
    assert "seed" not in talk.say("/set", "temperature 0.0").partition("ignore_eos")[2]
    talk.say("/save", "Hint: ")
    talk.say("/save x.json", "nothing to save")
    talk.say("Hello", "first after")
    talk.say("/save /proc/chat.json", "cannot write /proc/chat.json")
    talk.say(f"/save {other}", "no conversation")
    assert other.read_text() == '{"precious": "data"}'
    talk.say(f"/load {other}", "no conversation")
    talk.say(f"/load {tmp_path}/absent", "cannot read")
    talk.say("/model owner/absent", "sage llm model download --model owner/absent")
    said = talk.say("word " * 300, "/save FILE keeps")
    assert re.search(r"exceeds the context of test/endless: \d+ of 256 tokens", said)
    talk.say("/stats", "Conversation: 2 messages")
    talk.say("Hello", "first after")
    talk.leave()


def test_another_model_takes_over(chat: Callable[..., Chat]) -> None:
    talk = chat(*SHORT)
    assert f"* {MODEL}" in talk.say("/model", MODEL)
    assert "completes each text" in talk.say(f"/model {BASE}", "remembers nothing")
    talk.say("Once upon", "first after")
    talk.say("/system Be brief.", "no chat template")
    assert f"{BASE}, " in talk.say("/stats", "Conversation: 0 messages")
    talk.say(f"/model {MODEL}", "answers from now on")
    talk.say("Hello", "first after")
    talk.say("/stats", "Conversation: 2 messages")
    talk.leave()


def test_ctrl_c_stops_an_answer_and_no_more(chat: Callable[..., Chat], tmp_path: Path) -> None:
    talk, file = chat("-t", "0", "--max-tokens", "30000"), tmp_path / "chat.json"
    talk.say("Hello", "\x1b[?2004l")
    talk.terminal.read_more(200)  # what a terminal is told beside the answer is less
    talk.terminal.type("\x03")
    talk.terminal.read_next("(Stopped.)")
    talk.say("half a line\x03", end="")
    talk.say("\x03", end="")
    talk.say(f"/save {file}", "Saved 2 messages")
    question, answer = messages(file)
    assert question == {"role": "user", "content": "Hello"}
    assert answer["role"] == "assistant"
    assert len(answer["content"]) >= 10
    talk.say("/set max_tokens 3")
    talk.say("Go on.", "first after")
    talk.leave()


def test_no_color_means_no_colour_and_no_animation(chat: Callable[..., Chat]) -> None:
    talk = chat(*SHORT, NO_COLOR="1")
    talk.say("Hello", "first after")
    talk.leave()
    assert f"Loading {MODEL} ...\r\n" in talk.terminal.raw
    assert not re.search(r"\x1b\[[1-9][0-9;]*m", talk.terminal.raw)


@pytest.mark.parametrize("mode", ["inline", "process"])
def test_closing_the_terminal_leaves_no_process(
    mode: str, chat: Callable[..., Chat], session_members: Callable[[int], list[str]]
) -> None:
    talk = chat("--engine-mode", mode)
    talk.terminal.read_next(PROMPT)
    process = talk.terminal.process
    assert len(session_members(process.pid)) >= (1 if mode == "inline" else 2)
    talk.terminal.hang_up()
    assert process.wait(TIMEOUT) == -signal.SIGHUP
    wait_for_the_end(lambda: session_members(process.pid))
