"""JSONLSink: a JSON Lines file that appears when it is complete."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sage.kernel.runtime.checkpoint import DurableSink
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.io.errors import OutputFileError
from sage.libs.io.output_file import open_locked, partial_path, replace, sync


class JSONLSink(DurableSink):
    """Writes each record as a line of JSON, UTF-8; raises for one that JSON cannot hold.

    Until the run is at its end the lines lie in ``<path>.partial``; then that takes the place of
    ``path``. With a checkpoint, a continued run first cuts off what was written after the last
    commit. As a dead-letter sink, ``on_error=partial(JSONLSink, "failed.jsonl")``, it writes
    ``{"operator", "record", "error": {"type", "message"}, "attempts"}``; what JSON cannot hold of
    such a record is there as its ``repr()``.
    """

    _file: BinaryIO | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._partial = partial_path(self._path)
        self._bytes = 0

    def begin(self, state: int | None) -> None:
        """Open the partial file, cut to ``state`` bytes."""
        if self._path.is_dir():
            raise OutputFileError(str(self._path), "it is a folder; name a file")
        if state is not None and not self._partial.exists() and self._size() == state:
            replace(self._path, self._partial)  # it was published, and then the run was killed
        self._file = open_locked(self._partial)
        self._bytes = state or 0
        there = self._file.seek(0, os.SEEK_END)
        if there < self._bytes:
            raise OutputFileError(
                str(self._partial),
                f"it has {there} bytes where the checkpoint has counted {state}; bring it back, "
                f"or begin anew by deleting the checkpoint",
            )
        self._file.truncate(self._bytes)
        self._file.seek(self._bytes)

    def execute(self, record: Any) -> None:
        """Write one line."""
        assert self._file is not None  # noqa: S101 - for the type checker; begin() has set it
        line = _line(record)
        self._file.write(line + b"\n")
        self._bytes += len(line) + 1

    def state(self) -> int:
        """Return the length of what was written, in bytes."""
        return self._bytes

    def sync(self) -> None:
        """Bring what was written to the disk."""
        if self._file is not None:
            sync(self._file)

    def finish(self) -> None:
        """Give the file its name."""
        self.sync()
        replace(self._partial, self._path)

    def cleanup(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _size(self) -> int | None:
        return self._path.stat().st_size if self._path.exists() else None


def _line(record: Any) -> bytes:
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, default=_as_json)
    except ValueError as error:
        if "float" not in str(error):  # but that it contains itself
            raise
        found = next(_not_finite(record, "record"), "a number of the record is not finite")
        raise ValueError(
            f"{found}, for which JSON has no number; turn it into None or a string by a map() "
            f"before the sink"
        ) from error
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only escape
        return json.dumps(record, default=_as_json).encode()


def _not_finite(value: Any, where: str) -> Iterator[str]:
    """Yield where numbers are that JSON does not have, in the order in which they are written."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where} is {value!r}"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{where}[{index}]")


def _as_json(value: Any) -> Any:
    if isinstance(value, FailedRecord):
        return _letter(value)
    raise TypeError(
        f"a {type(value).__name__} cannot be written as JSON: {value!r}; turn it into a string, "
        f"number, list or dict by a map() before the sink"
    )


def _letter(failed: FailedRecord) -> dict[str, Any]:
    try:
        record = _plain(failed.record)
    except RecursionError:  # it contains itself
        record = repr(failed.record)
    return {
        "operator": failed.operator,
        "record": record,
        "error": {"type": type(failed.error).__name__, "message": str(failed.error)},
        "attempts": failed.attempts,
    }


def _plain(value: Any) -> Any:
    """Return what JSON can hold of a value, and the repr() of what it cannot: a dead letter that
    cannot be written would stop the run that it is to save."""
    if isinstance(value, dict):
        return {
            key if isinstance(key, str | int | None) else repr(key): _plain(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return repr(value)
