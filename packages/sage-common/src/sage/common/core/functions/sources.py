"""Functions that produce records, and the signal that ends them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from sage.common.core.functions.base import BaseFunction


class NoRecord:
    """What a source may return that is no record; one question of the kernel per record."""


class StopSignal(NoRecord):
    """Returned by a source when it has no more records."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"StopSignal({self.reason!r})"


@dataclass(frozen=True, kw_only=True)
class UnreadableRecord(NoRecord):
    """Returned by a source in place of a record that it cannot read, if it can go on after it.

    The ``on_error`` of ``from_source()`` says what becomes of it: ``record``, what there is of
    it, goes with ``error`` to a dead-letter sink, as from any operator.
    """

    record: Any
    error: Exception


class SourceFunction(BaseFunction, ABC):
    """A source of records, bounded or not.

    Any value but a StopSignal or an UnreadableRecord is a record. None is an error: otherwise a
    forgotten ``return``, or an end without StopSignal, would be an endless stream of None.
    """

    none_is_record: bool = False
    """Whether None is a record of this source."""

    @abstractmethod
    def execute(self) -> Any:
        """Return the next record, waiting for it if need be, or a StopSignal at the end."""


class BatchFunction(BaseFunction, ABC):
    """A source of finitely many records."""

    @abstractmethod
    def execute(self) -> Any:
        """Return the next record, or None (or a StopSignal) at the end."""
