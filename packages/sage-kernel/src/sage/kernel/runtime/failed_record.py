"""FailedRecord: what a dead-letter sink receives, and what stopped a pipeline."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class FailedRecord:
    """A record that an operator could not process.

    ``record`` is None where the operator had none: in a source, in setup or in cleanup.
    """

    operator: str
    record: Any
    error: BaseException
    attempts: int = 1

    def __str__(self) -> str:
        tries = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"in operator {self.operator!r} on record {reprlib.repr(self.record)}{tries}"
