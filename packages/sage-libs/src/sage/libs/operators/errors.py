"""Errors of operators on models.

UnfinishedAnswerError    (SageError, ValueError)  an answer ended before its JSON did
"""

from __future__ import annotations

import reprlib

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
