"""ParquetSource: the rows of Parquet files."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from sage.common.core.functions import SourceFunction, StopSignal
from sage.common.core.local_path import local_path
from sage.kernel.runtime.checkpoint import InputChange
from sage.libs.io.errors import InputFileError
from sage.libs.io.input_files import input_files, no_records
from sage.libs.io.input_marks import fingerprint, input_change, whole_piece
from sage.libs.io.json_lines import NotFinite, check_not_finite
from sage.libs.io.parquet_files import count_rows, require_pyarrow
from sage.libs.io.parquet_rows import check_columns, read_records


class ParquetSource(SourceFunction):
    """Emits each row of a ``.parquet`` file, or of all those in a folder by name, as a dict.

    A map column is a dict. Moments are datetimes, or their ISO text where they have fractions of a
    microsecond.

    A row that cannot be read, such as one with a date before the year 1, stops the run with an
    InputFileError that has its file and number, unless the ``on_error`` of ``from_source()`` says
    otherwise; the letter's record is ``{"path", "row"}``.

    Args:
        path: the file or folder.
        columns: the columns to read, all by default; InputFileError names one that a file has not,
            or has twice.
        not_finite: what becomes of NaN and infinities: ``"keep"``, ``"null"`` to read them as None,
            or ``"raise"`` to make the row an error. A run that ends in JSON needs one of the latter
            two: it would else find out after the work is done.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        columns: Sequence[str] | None = None,
        not_finite: NotFinite = "keep",
    ) -> None:
        if isinstance(columns, str) or (columns is not None and not columns):
            raise ValueError(f"columns is a list of at least one name, not {columns!r}")
        check_not_finite(not_finite)
        self._path = local_path(path)
        self._columns = None if columns is None else list(columns)
        self._not_finite = not_finite
        self._to_skip = 0
        self._end = StopSignal(f"the end of {path}")
        self._records = no_records()  # until setup() has found files

    def setup(self) -> None:
        """Look which files there are, and whether they have the columns."""
        require_pyarrow()
        files = input_files(self._path, ".parquet")
        for path in files:
            check_columns(path, self._columns)
        self._records = self._read(files)

    def __len__(self) -> int:
        """Count the rows, as the files say in their footers."""
        return sum(map(count_rows, input_files(self._path, ".parquet")))

    def skip(self, count: int) -> None:
        """Pass over the next rows; files and row groups before them are not read."""
        self._to_skip += count

    def input_fingerprint(self) -> dict[str, Any]:
        """Return what tells the input again, see FingerprintedInput; reads it once."""
        require_pyarrow()
        return fingerprint(input_files(self._path, ".parquet"), _pieces)

    def input_change(self, before: dict[str, Any]) -> InputChange | None:
        """Say from which row on the files are others than before; a file changes as a whole."""
        require_pyarrow()
        return input_change(self._path, input_files(self._path, ".parquet"), _pieces, before)

    def execute(self) -> Any:
        """Return the next row, or an UnreadableRecord."""
        return next(self._records, self._end)

    def cleanup(self) -> None:
        """Close the file."""
        self._records.close()

    def _read(self, files: list[Path]) -> Generator[Any, None, None]:
        for path in files:
            skip = self._to_skip
            if skip:
                self._to_skip = max(0, skip - count_rows(path))
            yield from read_records(path, self._columns, self._not_finite, skip=skip)
        if self._to_skip:
            reason = f"it ends {self._to_skip} rows before where the last run stopped"
            raise InputFileError(str(self._path), None, reason)


def _pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    return whole_piece(path, count_rows(path))
