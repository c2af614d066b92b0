"""JSONLSource: the records of JSON Lines files."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from sage.common.core.functions import SourceFunction, StopSignal
from sage.libs.io.errors import InputFileError
from sage.libs.io.input_files import input_files

_MOST_BYTES_COUNTED = 1 << 30  # the start waits for it: a second, if the disk gives them as fast


class JSONLSource(SourceFunction):
    """Emits one record for each line of a ``.jsonl`` file, or of all those in a folder by name.

    Blank lines are no records. Raises InputFileError, with file and line, where a line is no JSON.
    ``len()`` counts the lines of files up to 1 GiB, so that a run can tell how much time is left.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._to_skip = 0
        self._end = StopSignal(f"the end of {path}")

    def setup(self) -> None:
        """Look which files there are."""
        self._records = self._read(input_files(self._path, ".jsonl"))

    def __len__(self) -> int:
        """Count the records; raises TypeError where counting would take long, or use them up."""
        files = input_files(self._path, ".jsonl")
        if not all(path.is_file() for path in files):
            raise TypeError(f"{self._path} is no file that can be read twice")
        if sum(path.stat().st_size for path in files) > _MOST_BYTES_COUNTED:
            raise TypeError(f"{self._path} is too large for counting its lines")
        return sum(1 for path in files for _ in _lines(path))

    def skip(self, count: int) -> None:
        """Pass over the next records without parsing them."""
        self._to_skip += count

    def execute(self) -> Any:
        """Return the next record."""
        return next(self._records, self._end)

    def cleanup(self) -> None:
        """Close the file."""
        self._records.close()

    def _read(self, files: list[Path]) -> Generator[Any, None, None]:
        for path in files:
            for number, line in _lines(path):
                if self._to_skip:
                    self._to_skip -= 1
                    continue
                try:
                    record = json.loads(line.decode())
                except ValueError as error:
                    problem = f"no JSON: {error}"
                    raise InputFileError(str(path), number, problem) from error
                yield record
        if self._to_skip:
            problem = f"it ends {self._to_skip} records before where the last run stopped"
            raise InputFileError(str(self._path), None, problem)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, each with its number."""
    with path.open("rb", buffering=1 << 20) as file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                yield number, line
