"""Errors of operators on models.

NoAnswerError            (SageError, ValueError)  an answer has no text
UnfinishedAnswerError    (SageError, ValueError)  an answer ended before its JSON did
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from sage.common.core.errors import SageError


class UnfinishedAnswerError(SageError, ValueError):
    """An answer that was to be JSON ended before the JSON did, so there is no object to emit."""

    def __init__(self, text: str, finish_reason: str) -> None:
        super().__init__(text, finish_reason)
        self.text = text
        self.finish_reason = finish_reason

    def __str__(self) -> str:
        hint = {
            "length": "; raise max_tokens",
            "deadline": "; raise deadline",
        }.get(self.finish_reason, "")
        return (
            f"the answer ended (finish_reason {self.finish_reason!r}) before its JSON was "
            f"complete{hint}: {reprlib.repr(self.text)}"
        )


class NoAnswerError(SageError, ValueError):
    """A chat model answered without a text.

    ``details`` has what came in its place: ``refusal``, ``tool_calls`` or ``reasoning``,
    ``finish_reason`` and ``tokens_used``.
    """

    def __init__(self, details: Mapping[str, Any]) -> None:
        super().__init__(details)
        self.details = details

    def __str__(self) -> str:
        details = self.details
        reason = details.get("finish_reason")
        came = f"the answer has no text (finish_reason {reason!r})"
        if "refusal" in details:
            return f"{came}: the model refuses: {reprlib.repr(details['refusal'])}"
        if "tool_calls" in details:
            return f"{came} but calls of tools: {reprlib.repr(details['tool_calls'])}"
        if "reasoning" in details:
            hint = "; raise max_tokens" if reason == "length" else ""
            return f"{came} but reasoning: {reprlib.repr(details['reasoning'])}{hint}"
        return came
