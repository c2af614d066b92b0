"""FailedRecord: what a dead-letter sink receives, and what stopped a pipeline."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any

from sage.kernel.runtime.html import html_table


@dataclass(frozen=True, kw_only=True)
class FailedRecord:
    """A record that an operator could not process: what a dead-letter sink receives.

    JSONLSink writes it as ``{"operator", "record", "error": {"type", "message"}, "attempts"}``.

    Args:
        operator: the operator's name.
        record: the record as the operator received it; None where the operator had none: in a
            source, in setup or in cleanup.
        error: the exception.
        attempts: how often the record was tried, retries included.
    """

    operator: str
    record: Any
    error: BaseException
    attempts: int = 1

    def __str__(self) -> str:
        tries = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"in operator {self.operator!r} on record {reprlib.repr(self.record)}{tries}"

    def _repr_html_(self) -> str:
        """Return its fields as a table, for notebooks."""
        error = f"{type(self.error).__name__}: {self.error}"
        row = (self.operator, self.record, error, self.attempts)
        return html_table(("operator", "record", "error", "attempts"), [row])
