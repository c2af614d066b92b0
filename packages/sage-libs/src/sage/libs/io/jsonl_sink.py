"""JSONLSink: a JSON Lines file that appears when it is complete."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from sage.kernel.runtime.checkpoint import DurableSink
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.io.errors import OutputFileError
from sage.libs.io.output_file import open_locked, partial_path, replace, sync


class JSONLSink(DurableSink):
    """Writes each record as a line of JSON, UTF-8.

    Until the run is at its end the lines lie in ``<path>.partial``; then that takes the place of
    ``path``. With a checkpoint, a continued run first cuts off what was written after the last
    commit. As a dead-letter sink, ``on_error=partial(JSONLSink, "failed.jsonl")``, it writes
    ``{"operator", "record", "error": {"type", "message"}, "attempts"}``.
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
        self._path.parent.mkdir(parents=True, exist_ok=True)
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
        try:
            line = json.dumps(record, ensure_ascii=False, default=_as_json).encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only escape
            line = json.dumps(record, default=_as_json).encode()
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


def _as_json(value: Any) -> Any:
    if isinstance(value, FailedRecord):
        error = {"type": type(value.error).__name__, "message": str(value.error)}
        return {
            "operator": value.operator,
            "record": value.record,
            "error": error,
            "attempts": value.attempts,
        }
    raise TypeError(
        f"a {type(value).__name__} cannot be written as JSON: {value!r}; turn it into a string, "
        f"number, list or dict by a map() before the sink"
    )
