"""AnswerReader: takes an answer apart into thinking, text and calls of tools, by vLLM's parser."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sage.common.components.sage_vllm.engine_contract import Reasoning, ToolCall
from sage.common.components.sage_vllm.errors import InvalidRequestError

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a generated text consists of; see Completion."""

    text: str
    reasoning: str | None
    reasoning_token_count: int | None
    tool_calls: list[ToolCall] | None


class AnswerReader:
    """Reads the answers to one prompt: one if it is streamed, else ``n`` of them.

    Args:
        model_id: named in errors.
        new_parser: makes a parser of vLLM's for one answer; None for answers that are text alone.
        request: the request of vLLM's server that the parsers look at.
        token_ids: the prompt.
        thinks: whether the model does, this time or not.
        calls_before: how many calls of tools the conversation has already.
        parsed_by: what the parser follows from beside the request, as plain data.
    """

    def __init__(
        self,
        model_id: str,
        new_parser: Callable[[], Any] | None,
        request: Any,
        token_ids: list[int],
        *,
        thinks: bool,
        calls_before: int,
        parsed_by: Sequence[Any],
    ) -> None:
        self._model_id = model_id
        self._new_parser = new_parser
        self._request = request
        self._token_ids = token_ids
        self._thinks = thinks
        self._calls_before = calls_before
        self._has_tools = bool(request.tools)
        self._parsed_by = parsed_by

    @property
    def facts(self) -> list[Any]:
        """What the parts of an answer follow from, beside its tokens, as plain data."""
        asked = self._request.model_dump(include={"tools", "tool_choice"})
        return [asked, self._calls_before, *self._parsed_by]

    def read(self, text: str, token_ids: Sequence[int]) -> Answer:
        """Take a whole answer apart; raises InvalidRequestError for one that cannot be."""
        none = 0 if self._thinks else None
        calls: list[ToolCall] | None = [] if self._has_tools else None
        if self._new_parser is None or not text:
            return Answer(text, None, none, calls)
        parser = self._new_parser()
        try:
            parser.set_prompt_token_ids(self._token_ids)
            reasoning, content, found = parser.parse(
                text, self._request, enable_auto_tools=True, model_output_token_ids=token_ids
            )
            count = self._count(parser, token_ids) if reasoning else none
        except Exception as error:  # whatever it is, it must not end the engine
            problem = f"vLLM's parser cannot read the answer {text[:200]!r}: {error}"
            raise InvalidRequestError(self._model_id, problem) from error
        if self._has_tools:
            calls = [
                _tool_call(each, number)
                for number, each in enumerate(found or (), self._calls_before)
            ]
        return Answer(content or "", reasoning or None, count, calls)

    def stream(self) -> AnswerStream:
        """Return what takes an answer apart as it is generated."""
        parser = None if self._new_parser is None else self._new_parser()
        return AnswerStream(parser, self._request, self._token_ids)

    def _count(self, parser: Any, token_ids: Sequence[int]) -> int:
        """Count the tokens of the thinking, which the prompt or the parser may have begun."""
        start = getattr(parser.reasoning_parser, "start_token_id", None)
        begun = start is not None and start not in token_ids
        return int(parser.count_reasoning_tokens([start, *token_ids] if begun else token_ids))


class AnswerStream:
    """Takes one answer apart, piece by piece."""

    def __init__(self, parser: Any, request: Any, prompt_token_ids: list[int]) -> None:
        self._parser = parser
        self._request = request
        self._prompt_token_ids = prompt_token_ids
        self._tokens = 0

    def feed(self, text: str, token_ids: Sequence[int], *, finished: bool) -> list[str]:
        """Return the pieces, thinking among them, that come with more text.

        ``token_ids`` are all of the answer so far.
        """
        if self._parser is None:
            return [text] if text else []
        new, self._tokens = list(token_ids[self._tokens :]), len(token_ids)
        try:
            delta = self._parser.parse_delta(
                text, new, self._request, self._prompt_token_ids, finished=finished
            )
        except Exception:
            logger.exception("vLLM's parser cannot read a stream, which goes on as it is")
            self._parser = None
            return [text] if text else []
        if delta is None:
            return []
        pieces = [Reasoning(delta.reasoning or ""), delta.content or ""]
        return [piece for piece in pieces if piece]


def _tool_call(call: Any, number: int) -> ToolCall:
    """Return a call of vLLM's as ours.

    vLLM names most of them at random. Here the same answer has the same names, of nine letters and
    digits, as some templates ask for; a name that the model itself gives stays.
    """
    arguments = call.arguments
    own = call.id if str(call.id or "").startswith("functions.") else None
    try:
        read = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        read = None
    return ToolCall(
        id=own or f"call{number:05}",
        name=call.name,
        arguments=read if isinstance(read, dict) else arguments,
    )
