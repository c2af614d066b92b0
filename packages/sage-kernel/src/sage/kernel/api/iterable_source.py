"""IterableSource: a source over anything that can be iterated."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sized
from typing import Any, cast

from sage.common.core.functions import SourceFunction, StopSignal


class IterableSource(SourceFunction):
    """Emits the items of an iterable."""

    none_is_record = True

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterable = iterable
        self._items: Iterator[Any] = iter(())
        self._end = StopSignal("the iterable is exhausted")

    def setup(self) -> None:
        """Begin the iteration."""
        self._items = iter(self._iterable)

    def __len__(self) -> int:
        """Return how many items there are; a TypeError if the iterable does not know."""
        return len(cast("Sized", self._iterable))

    def execute(self) -> Any:
        """Return the next item."""
        return next(self._items, self._end)

    def cleanup(self) -> None:
        """End a generator that was not read to its end, so that it releases what it holds."""
        if isinstance(self._items, Generator):
            self._items.close()
