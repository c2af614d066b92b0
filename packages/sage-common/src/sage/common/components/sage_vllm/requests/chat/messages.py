"""Messages of a conversation in the one form that templates know: OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage.common.components.sage_vllm.tokens import TokenIds

_REASONING_ALIAS = "reasoning_content"


def in_openai_form(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return messages with the calls of tools as results have them, or as OpenAI does.

    What an assistant thought may be under ``reasoning`` or ``reasoning_content``.
    """
    return [
        _converted(message) if "tool_calls" in message or _REASONING_ALIAS in message else message
        for message in messages
    ]


def calls_in(messages: Any) -> int:
    """Return how many calls of tools there are in a conversation; in a text there are none."""
    if isinstance(messages, str | TokenIds):
        return 0
    return sum(len(message.get("tool_calls") or ()) for message in messages)


def _converted(message: Mapping[str, Any]) -> Mapping[str, Any]:
    converted = dict(message)
    if (reasoning := converted.pop(_REASONING_ALIAS, None)) is not None:
        converted.setdefault("reasoning", reasoning)
    if calls := converted.get("tool_calls"):
        converted["tool_calls"] = [_nested(call) for call in calls]
    return converted


def _nested(call: Any) -> Any:
    """Return ``{"id", "name", "arguments"}`` as OpenAI nests it."""
    if not isinstance(call, Mapping) or "function" in call or "name" not in call:
        return call
    function = {"name": call["name"], "arguments": call.get("arguments") or {}}
    return {"id": call.get("id"), "type": "function", "function": function}
