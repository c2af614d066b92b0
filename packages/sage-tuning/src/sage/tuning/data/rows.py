"""Rows: many rows of tokens in little memory, and the files that a job keeps them in."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sage.tuning.data.rendering import Row

_PARTS = ("ids", "row_ends", "spans", "span_ends")


class Rows(Sequence[Row]):
    """Rows of tokens, one behind the other in arrays of numbers."""

    def __init__(self) -> None:
        self._ids, self._row_ends = array("i"), array("q")
        self._spans, self._span_ends = array("i"), array("q")

    def append(self, row: Row) -> None:
        """Add a row."""
        self._ids.extend(row.ids)
        self._row_ends.append(len(self._ids))
        for span in row.spans:
            self._spans.extend(span)
        self._span_ends.append(len(self._spans))

    def __len__(self) -> int:
        return len(self._row_ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = self._row_ends[index - 1] if index else 0
        first = self._span_ends[index - 1] if index else 0
        flat = self._spans[first : self._span_ends[index]].tolist()
        spans = tuple(zip(flat[::2], flat[1::2], strict=True))
        return Row(self._ids[start : self._row_ends[index]].tolist(), spans)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    @property
    def lengths(self) -> list[int]:
        """How many tokens each row has."""
        return [end - start for start, end in zip([0, *self._row_ends], self._row_ends)]  # noqa: B905

    def chosen(self, indices: Sequence[int]) -> Rows:
        """Return the rows of these indices, in this order."""
        found = Rows()
        for index in indices:
            found.append(self[index])
        return found

    def save(self, file: Path) -> None:
        """Write the rows into a ``.npz`` file."""
        arrays = {name: np.asarray(getattr(self, f"_{name}")) for name in _PARTS}
        with file.open("wb") as opened:
            np.savez(opened, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, file: Path) -> Rows:
        """Return the rows that ``save`` has written."""
        rows = cls()
        with np.load(file, allow_pickle=False) as arrays:
            for name in _PARTS:
                own: array[int] = getattr(rows, f"_{name}")
                own.frombytes(arrays[name].astype(own.typecode).tobytes())
        return rows
