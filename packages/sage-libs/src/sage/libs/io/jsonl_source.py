"""JSONLSource: the records of JSON Lines files."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from sage.common.core.errors import json_problem
from sage.common.core.functions import SourceFunction, StopSignal, UnreadableRecord
from sage.common.core.local_path import local_path
from sage.kernel.runtime.checkpoint import InputChange
from sage.libs.io.compression import SUFFIXES
from sage.libs.io.errors import InputFileError
from sage.libs.io.input_files import input_files, no_records
from sage.libs.io.input_marks import fingerprint, input_change, line_pieces
from sage.libs.io.json_lines import NotFinite, NotFiniteNumber, check_not_finite, line_decoder
from sage.libs.io.text_lines import text_lines

_MOST_BYTES_COUNTED = 1 << 30  # the start waits for it: a second, if the disk gives them as fast
_UNPACKED = 8  # times as long


class JSONLSource(SourceFunction):
    """Emits one record for each line of a ``.jsonl`` file, or of all those in a folder by name.

    The files may be UTF-8, UTF-16 or UTF-32, with a byte-order mark or without, and compressed by
    gzip, bzip2, xz or Zstandard, whatever their suffix. Blank lines are no records. Rows of a CSV
    come from ``csv.DictReader``, by ``from_collection``.

    A line that is no JSON stops the run with an InputFileError that has its file and number. With
    ``on_error="skip"`` or a dead-letter sink, as operators have it, ``from_source()`` goes on
    after it; the letter's record is ``{"path", "line", "text"}``.

    ``len()`` counts the lines of files up to 1 GiB, so that a run can tell how much time is left.

    Args:
        path: the file or folder.
        not_finite: what becomes of a line with NaN or an infinity, which JSON does not have but
            Python writes: ``"raise"`` treats it as no JSON, ``"null"`` reads them as None,
            ``"keep"`` as they are.
    """

    none_is_record = True  # as a line it is null

    def __init__(self, path: str | os.PathLike[str], *, not_finite: NotFinite = "raise") -> None:
        check_not_finite(not_finite)
        self._path = local_path(path)
        self._decode = line_decoder(not_finite)
        self._records = no_records()  # until setup() has found files
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
        if sum(map(_size, files)) > _MOST_BYTES_COUNTED:
            raise TypeError(f"{self._path} is too large for counting its lines")
        return sum(1 for path in files for _ in text_lines(path))

    def skip(self, count: int) -> None:
        """Pass over the next records without parsing them."""
        self._to_skip += count

    def input_fingerprint(self) -> dict[str, Any]:
        """Return what tells the input again, see FingerprintedInput; reads it once."""
        return fingerprint(input_files(self._path, ".jsonl"), line_pieces)

    def input_change(self, before: dict[str, Any]) -> InputChange | None:
        """Say which records are others than before; compression and encoding make no difference."""
        return input_change(self._path, input_files(self._path, ".jsonl"), line_pieces, before)

    def execute(self) -> Any:
        """Return the next record, or an UnreadableRecord."""
        return next(self._records, self._end)

    def cleanup(self) -> None:
        """Close the file."""
        self._records.close()

    def record_of(self, path: Path, number: int, line: bytes) -> Any:
        """Return the record of a line, or an UnreadableRecord; a subclass may keep the number."""
        try:
            return self._decode(line.decode())
        except (ValueError, RecursionError) as error:
            return _unreadable(path, number, line, error)

    def _read(self, files: list[Path]) -> Generator[Any, None, None]:
        for path in files:
            for number, line in text_lines(path):
                if self._to_skip:
                    self._to_skip -= 1
                    continue
                yield self.record_of(path, number, line)
        if self._to_skip:
            problem = f"it ends {self._to_skip} records before where the last run stopped"
            raise InputFileError(str(self._path), None, problem)


def _size(path: Path) -> int:
    return path.stat().st_size * (_UNPACKED if path.suffix in SUFFIXES else 1)


def _unreadable(path: Path, number: int, line: bytes, cause: Exception) -> UnreadableRecord:
    problem = str(cause)
    if isinstance(cause, json.JSONDecodeError):  # whose own line is always 1
        problem = f"{json_problem(cause)} (column {cause.pos + 1})"
        if cause.doc[cause.pos : cause.pos + 1] in ("\r", "\n") and "control" in problem:
            problem = "a string in it has no end"  # but the line has
    hint = None
    if isinstance(cause, NotFiniteNumber):
        hint = 'not_finite="null" reads null'
    elif isinstance(cause, UnicodeDecodeError):
        hint = "write the file anew as UTF-8: iconv -f LATIN1 -t UTF-8"
    elif {".csv", ".tsv"} & {suffix.lower() for suffix in path.suffixes}:
        hint = "JSON Lines has one object per line; csv.DictReader makes dicts of the rows of a CSV"
    elif number == 1 and line.startswith(b"["):
        hint = "the file is one JSON array; write a record a line: jq -c '.[]'"
    elif number == 1 and line.strip() == b"{":
        hint = "the object has several lines; write a record a line: jq -c ."
    error = InputFileError(str(path), number, f"no JSON: {problem}", hint=hint)
    error.__cause__ = cause
    text = line.rstrip(b"\r\n").decode(errors="surrogateescape")
    return UnreadableRecord(record={"path": str(path), "line": number, "text": text}, error=error)
