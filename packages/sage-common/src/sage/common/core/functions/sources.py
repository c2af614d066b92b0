"""Functions that produce records, and the signal that ends them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from sage.common.core.functions.base import BaseFunction


class StopSignal:
    """Returned by a source when it has no more records."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"StopSignal({self.reason!r})"


class SourceFunction(BaseFunction, ABC):
    """A source of records, bounded or not. Any value but a StopSignal is a record, None too."""

    @abstractmethod
    def execute(self) -> Any:
        """Return the next record, waiting for it if need be, or a StopSignal at the end."""


class BatchFunction(BaseFunction, ABC):
    """A source of finitely many records."""

    @abstractmethod
    def execute(self) -> Any:
        """Return the next record, or None (or a StopSignal) at the end."""
