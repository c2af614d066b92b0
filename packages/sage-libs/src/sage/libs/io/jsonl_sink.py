"""JSONLSink: a JSON Lines file that appears when it is complete."""

from __future__ import annotations

import os
from typing import Any, BinaryIO

from sage.kernel.runtime.checkpoint import DurableSink
from sage.libs.io.compression import compression_of, pack, unpack
from sage.libs.io.errors import OutputFileError
from sage.libs.io.json_lines import as_line
from sage.libs.io.output_file import (
    close,
    open_locked,
    output_path,
    partial_path,
    replace,
    sync,
)


class JSONLSink(DurableSink):
    """Writes each record as a line of JSON, UTF-8; raises for one that JSON cannot hold.

    Until the run is at its end the lines lie in ``<path>.partial``; then that takes the place of
    ``path``. With a checkpoint, a continued run first cuts off what was written after the last
    commit. What JSON has no type for is written as text: dates and times as ISO, decimals as the
    number, bytes as Base64.

    As a dead-letter sink, ``on_error=partial(JSONLSink, "failed.jsonl")``, it writes
    ``{"operator", "record", "error": {"type", "message"}, "attempts"}``; what JSON cannot hold of
    such a record is there as its ``repr()``.

    Args:
        path: the file. If it ends in ``.gz``, ``.bz2``, ``.xz`` or ``.zst``, it is compressed as it
            takes its name.
    """

    _file: BinaryIO | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = output_path(path)
        self._partial = partial_path(self._path)
        self._unpacked = self._path.with_name(f"{self._path.name}.new")  # or packed, for a moment
        try:
            self._compression = compression_of(self._path)
        except ValueError as error:
            raise OutputFileError(str(path), str(error)) from error
        self._bytes = 0

    def begin(self, state: int | None) -> None:
        """Open the partial file, cut to ``state`` bytes."""
        if state is not None and not self._partial.exists() and self._path.exists():
            self._take_back(state)  # it was published, and then the run was killed
        self._file = open_locked(self._partial)
        self._bytes = state or 0
        there = self._file.seek(0, os.SEEK_END)
        if there < self._bytes:
            raise OutputFileError(
                str(self._partial),
                f"it has {there} bytes where the checkpoint has counted {state}",
                hint="bring it back, or begin anew by deleting the checkpoint",
            )
        self._file.truncate(self._bytes)
        self._file.seek(self._bytes)

    def execute(self, record: Any) -> None:
        """Write one line."""
        assert self._file is not None  # noqa: S101 - for the type checker; begin() has set it
        line = as_line(record)
        self._file.write(line + b"\n")
        self._bytes += len(line) + 1

    def state(self) -> int:
        """Return the length of what was written, in bytes before they are compressed."""
        return self._bytes

    def sync(self) -> None:
        """Bring what was written to the disk."""
        if self._file is not None:
            sync(self._file)

    def finish(self) -> None:
        """Give the file its name."""
        self.sync()
        if self._compression is None:
            replace(self._partial, self._path)
            return
        pack(self._partial, self._unpacked, self._compression)
        replace(self._unpacked, self._path)
        self._partial.unlink()  # only now: until here it is all there is

    def output_name(self) -> str:
        """Return the absolute path."""
        return str(self._path.resolve())

    def output_problem(self) -> str | None:
        """Return that the output is not there; None if it is."""
        return None if self._path.is_file() else f"{self._path} is not there"

    def cleanup(self) -> None:
        """Close the file."""
        if self._file is not None:
            close(self._file)

    def _take_back(self, state: int) -> None:
        """Make the published file the partial one again, if it has what was counted."""
        if self._compression is None:
            if self._path.stat().st_size == state:
                replace(self._path, self._partial)
        elif unpack(self._path, self._unpacked) == state:
            replace(self._unpacked, self._partial)
