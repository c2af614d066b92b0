"""Errors of operators on models.

NoAnswerError            (SageError, ValueError)  an answer has no text
UnfinishedAnswerError    (SageError, ValueError)  an answer ended before its JSON did
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from sage.common.core.errors import SageError

_LIMITS = {"length": "sampling.max_tokens", "deadline": "sampling.deadline"}


class UnfinishedAnswerError(SageError, ValueError):
    """An answer that was to be JSON ended before the JSON did, so there is no object to emit."""

    def __init__(self, text: str, finish_reason: str) -> None:
        limit = _LIMITS.get(finish_reason)
        super().__init__(
            f"the answer {reprlib.repr(text)} ended (finish_reason {finish_reason!r}) before its "
            f"JSON was complete",
            hint=None if limit is None else "raise",
            option=limit,
        )
        self.text = text
        self.finish_reason = finish_reason


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
