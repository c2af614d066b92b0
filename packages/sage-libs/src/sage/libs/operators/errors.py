"""Errors of operators on models.

NoAnswerError            (SageError, ValueError)  an answer has no text
ToolCallError            (SageError, ValueError)  a model calls tools as it cannot, or has no end
ToolTimeoutError         (SageError, TimeoutError)  a tool lasts too long
UnfinishedAnswerError    (SageError, ValueError)  an answer ended before its JSON did
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, Literal

from sage.common.core.errors import SageError

_LIMITS = {"length": "sampling.max_tokens", "deadline": "sampling.deadline"}


class UnfinishedAnswerError(SageError, ValueError):
    """An answer ended before its JSON was complete, or its calls, or before the thinking's end.

    ``text`` is what there is of the answer, ``reasoning`` what the model thought.
    """

    def __init__(
        self,
        text: str,
        finish_reason: str,
        reasoning: str | None = None,
        *,
        what: Literal["JSON", "calls"] = "JSON",
    ) -> None:
        be = "was" if what == "JSON" else "were"
        limit = _LIMITS.get(finish_reason)
        super().__init__(
            f"the answer ended (finish_reason {finish_reason!r}) within the model's thinking "
            f"{reprlib.repr(reasoning)}"
            if reasoning and not text
            else f"the answer {reprlib.repr(text)} ended (finish_reason {finish_reason!r}) before "
            f"its {what} {be} complete",
            hint=None if limit is None else "raise",
            option=limit,
        )
        self.text = text
        self.finish_reason = finish_reason
        self.reasoning = reasoning


class ToolCallError(SageError, ValueError):
    """A model asks for tools as it cannot, or again and again: ``reason`` says what is wrong.

    ``name`` and ``arguments`` are of the call.
    """

    def __init__(self, name: str, arguments: Any, reason: str, hint: str | None = None) -> None:
        super().__init__(reason, hint=hint)
        self.name = name
        self.arguments = arguments
        self.reason = reason


class ToolTimeoutError(SageError, TimeoutError):
    """The tool ``name`` did not end within ``seconds``."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(f"the tool {name!r} did not end within {seconds:g} s")
        self.name = name
        self.seconds = seconds


class NoAnswerError(SageError, ValueError):
    """A chat model answered without a text.

    ``details`` has what came in its place: ``refusal``, ``tool_calls`` or ``reasoning``,
    ``finish_reason`` and ``tokens_used``.
    """

    def __init__(self, details: Mapping[str, Any]) -> None:
        reason = details.get("finish_reason")
        came, limit = f"the answer has no text (finish_reason {reason!r})", None
        if "refusal" in details:
            came += f": the model refuses: {reprlib.repr(details['refusal'])}"
        elif "tool_calls" in details:
            came += f" but calls of tools: {reprlib.repr(details['tool_calls'])}"
        elif "reasoning" in details:
            came += f" but reasoning: {reprlib.repr(details['reasoning'])}"
            limit = "sampling.max_tokens" if reason == "length" else None
        super().__init__(came, hint=None if limit is None else "raise", option=limit)
        self.details = details
