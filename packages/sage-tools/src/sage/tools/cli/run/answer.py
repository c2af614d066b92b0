"""An answer as it is shown: piece by piece, then its figures."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Reasoning
from sage.common.components.sage_vllm.requests.result_types import GenerateResult
from sage.common.components.sage_vllm.requests.text_stream import TextStream
from sage.common.components.sage_vllm.service import VLLMService
from sage.tools.cli.terminal.output import is_rich, write_note

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline


class ShownAnswer:
    """Writes a text to stdout as it is generated; `text` is what was written so far.

    What the model thinks before it is shown dim on a terminal, unless it is to be hidden.
    """

    def __init__(self, *, hide_reasoning: bool = False) -> None:
        self.text = ""
        self._shows_reasoning = not hide_reasoning and is_rich(sys.stderr)
        self._thinking = ""
        self._began = time.perf_counter()
        self._first_after: float | None = None

    def show(self, stream: TextStream) -> GenerateResult:
        """Write all of a stream and return its result."""
        plain = sys.stdout.isatty()
        for piece in stream.pieces():
            if self._first_after is None:
                self._first_after = time.perf_counter() - self._began
            if isinstance(piece, Reasoning):
                self._think(piece)
                continue
            self._end_thinking()
            self.text += piece
            sys.stdout.write(_visible(piece) if plain else piece)
            sys.stdout.flush()
        self._end_thinking()
        return stream.result

    def _think(self, piece: str) -> None:
        if self._shows_reasoning:
            sys.stderr.write(f"{_DIM}{_visible(piece)}{_PLAIN}")
            sys.stderr.flush()
            self._thinking += piece

    def _end_thinking(self) -> None:
        if self._thinking and not self._thinking.endswith("\n"):
            sys.stderr.write("\n")
            sys.stderr.flush()
        self._thinking = ""

    def end_line(self) -> None:
        """End the line that the text leaves open."""
        if not self.text.endswith("\n"):
            sys.stdout.write("\n")
        sys.stdout.flush()

    def write_figures(self, result: Mapping[str, Any], *, quiet: bool) -> None:
        """Say on a terminal how many tokens it took and how fast."""
        if quiet or not sys.stderr.isatty():
            return
        seconds = time.perf_counter() - self._began
        count = result["tokens_used"]["completion"]
        figures = f"{count} token{'' if count == 1 else 's'}, {count / seconds:.0f} tokens/s"
        if self._first_after is not None:
            figures += f", first after {self._first_after:.2f} s"
        dim, plain = (_DIM, _PLAIN) if is_rich(sys.stderr) else ("", "")
        print(f"{dim}{figures}{plain}", file=sys.stderr)


def takes_conversations(service: VLLMService) -> bool:
    """Whether the model has a chat template."""
    return bool(service.stats()["engine"]["chat_templates"])


def why_cut_off(result: Mapping[str, Any], context: int) -> tuple[str, str] | None:
    """Where an answer was cut off, and what gives it more room; None if it came to its own end."""
    used = result["tokens_used"]
    if result["finish_reason"] == "deadline":
        return "at the deadline", "Raise --deadline"
    if result["finish_reason"] != "length":
        return None
    if used["total"] >= context:
        longer = "Shorten the prompt, raise --max-model-len, or take a model with a longer context"
        return f"at the end of the context, {context:,} tokens", longer
    return f"at max_tokens, {used['completion']:,}", "Raise --max-tokens"


def write_why_cut_off(result: Mapping[str, Any], context: int, *, quiet: bool) -> None:
    """Say of an answer that did not come to its own end what ended it."""
    if why := why_cut_off(result, context):
        write_note(f"(Cut off {why[0]}.)", quiet=quiet)


def _visible(text: str) -> str:
    """Show what a terminal would obey."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
