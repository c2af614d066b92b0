"""CannedAnswer: what EchoEngine is to answer where that is more than a text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.common.components.sage_vllm.engine_contract import (
    Completion,
    Prompt,
    Reasoning,
    ToolCall,
)
from sage.common.components.sage_vllm.requests.chat.messages import calls_in
from sage.common.components.sage_vllm.testing.schema_example import SchemaExample


@dataclass(frozen=True, kw_only=True)
class CannedAnswer:
    """An answer with what the model thought before it, or with calls of tools in its place.

    Args:
        text: the answer itself.
        reasoning: what came before it; with ``thinking=False`` it is left out, and of a budget
            there are only so many words.
        tool_calls: names of tools, and the arguments of each.

    Example::

        answers = {"Rain in Oslo?": CannedAnswer(tool_calls=[("rain", {"city": "Oslo"})])}
    """

    text: str = ""
    reasoning: str | None = None
    tool_calls: Sequence[tuple[str, Mapping[str, Any]]] = ()


def completed(
    answer: CannedAnswer, prompt: Prompt, options: Mapping[str, Any], max_words: int
) -> tuple[Completion, list[str]]:
    """Return what a call gets of an answer, and the pieces that a stream of it has.

    A word is a token, those that were thought too; ``max_tokens`` or ``max_words`` end it.
    """
    thinks = answer.reasoning is not None and options.get("thinking") is not False
    thought = _words(answer.reasoning or "") if thinks else []
    budget = options.get("thinking")
    if budget is not None and not isinstance(budget, bool):
        thought = thought[:budget]
    said = _words(answer.text)
    left = options.get("max_tokens") or max_words
    cut = len(thought) + len(said) > left
    thought = thought[:left]
    said = said[: left - len(thought)]
    calls = None
    if options.get("tools") and options.get("tool_choice") != "none":
        calls = [] if cut else _calls(answer, prompt)
    reason = "length" if cut else "tool_calls" if calls else "stop"
    completion = Completion(
        text="".join(said),
        finish_reason=reason,
        token_count=len(thought) + len(said),
        reasoning="".join(thought) or None,
        reasoning_token_count=None if answer.reasoning is None else len(thought),
        tool_calls=calls,
    )
    return completion, [*map(Reasoning, thought), *said]


def example_call(words: str, options: Mapping[str, Any]) -> CannedAnswer | None:
    """Return a call of the tool that a call must have; None where it needs none."""
    choice = options.get("tool_choice")
    if choice in (None, "auto", "none"):
        return None
    for tool in options["tools"]:
        function = tool["function"]
        if choice in ("required", function["name"]):
            schema = function.get("parameters") or {"type": "object"}
            arguments = SchemaExample(schema, words).make()
            return CannedAnswer(tool_calls=[(function["name"], arguments)])
    return None


def _calls(answer: CannedAnswer, prompt: Prompt) -> list[ToolCall]:
    return [
        ToolCall(id=f"call{number:05}", name=name, arguments=arguments)
        for number, (name, arguments) in enumerate(answer.tool_calls, calls_in(prompt))
    ]


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)
