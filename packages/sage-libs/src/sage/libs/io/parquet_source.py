"""ParquetSource: the rows of Parquet files."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from sage.common.core.functions import SourceFunction, StopSignal
from sage.common.core.local_path import local_path
from sage.libs.io.errors import InputFileError
from sage.libs.io.input_files import input_files, no_records
from sage.libs.io.parquet_files import count_rows, read_rows, require_pyarrow


class ParquetSource(SourceFunction):
    """Emits each row of a ``.parquet`` file, or of all those in a folder by name, as a dict.

    ``columns`` names the columns to read, all by default.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, columns: Sequence[str] | None = None
    ) -> None:
        self._path = local_path(path)
        self._columns = columns
        self._to_skip = 0
        self._end = StopSignal(f"the end of {path}")
        self._records = no_records()  # until setup() has found files

    def setup(self) -> None:
        """Look which files there are."""
        require_pyarrow()
        self._records = self._read(input_files(self._path, ".parquet"))

    def __len__(self) -> int:
        """Count the rows, as the files say in their footers."""
        return sum(map(count_rows, input_files(self._path, ".parquet")))

    def skip(self, count: int) -> None:
        """Pass over the next rows; files and row groups before them are not read."""
        self._to_skip += count

    def execute(self) -> Any:
        """Return the next row."""
        return next(self._records, self._end)

    def cleanup(self) -> None:
        """Close the file."""
        self._records.close()

    def _read(self, files: list[Path]) -> Generator[Any, None, None]:
        for path in files:
            skip = self._to_skip
            if skip:
                self._to_skip = max(0, skip - count_rows(path))
            for rows in read_rows(path, columns=self._columns, skip=skip):
                yield from rows
        if self._to_skip:
            problem = f"it ends {self._to_skip} rows before where the last run stopped"
            raise InputFileError(str(self._path), None, problem)
