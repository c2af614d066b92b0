"""What a terminal shows of an answer whose model thinks first."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

import pytest

from sage.common.components.sage_vllm import Reasoning
from sage.common.components.sage_vllm.requests.text_stream import TextStream
from sage.tools.cli.run.answer import ShownAnswer

PIECES = [Reasoning("so\x1b[31m "), Reasoning("then"), "It ", "is."]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str, str]]:
    """A function that shows an answer; returns what stdout and stderr got, and the text."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def shown(err: io.StringIO, *, hide_reasoning: bool = False) -> tuple[str, str, str]:
        out = Terminal()
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr("sys.stderr", err)
        pieces: SimpleQueue[str | None] = SimpleQueue()
        for piece in PIECES:
            pieces.put(piece)
        future: Future[list[dict[str, str]]] = Future()
        stream = TextStream(pieces, future)
        future.set_result([{"text": "It is."}])
        answer = ShownAnswer(hide_reasoning=hide_reasoning)
        answer.show(stream)
        return out.getvalue(), err.getvalue(), answer.text

    return shown


def test_thinking_is_shown_dimly_before_the_answer(
    show: Callable[..., tuple[str, str, str]],
) -> None:
    out, err, text = show(Terminal())
    assert out == text == "It is."
    assert err == "\x1b[2mso\\x1b[31m \x1b[0m\x1b[2mthen\x1b[0m\n"


def test_it_is_hidden_on_demand_and_where_no_terminal_is(
    show: Callable[..., tuple[str, str, str]],
) -> None:
    assert show(Terminal(), hide_reasoning=True) == ("It is.", "", "It is.")
    assert show(io.StringIO()) == ("It is.", "", "It is.")
