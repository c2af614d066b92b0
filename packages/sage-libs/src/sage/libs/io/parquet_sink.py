"""ParquetSink: a folder of Parquet files that appears when it is complete."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sage.common.core.durable_files import sync_path
from sage.common.core.local_path import local_path
from sage.kernel.runtime.checkpoint import DurableSink
from sage.libs.io.errors import OutputFileError
from sage.libs.io.output_file import close, open_locked, partial_path, replace, sync
from sage.libs.io.parquet_columns import ParquetColumns, Row
from sage.libs.io.parquet_files import (
    read_column,
    read_columns,
    read_rows,
    require_pyarrow,
    rewrite,
    write_rows,
)


class ParquetSink(DurableSink):
    """Writes records, which are dicts, as ``part-00000.parquet`` and so on into a folder.

    In the end all parts have the same columns, so that they are read as one table. A row that does
    not fit raises OutputFileError, with its column and value, and is left out. Until the run is at
    its end the parts lie in ``<path>.partial``; then that folder becomes ``path``.

    A Parquet file cannot be continued. So with a checkpoint, the rows of the part to come are
    also kept in a journal, with the columns, and a continued run begins with them.

    Args:
        path: the folder, which must not exist before.
        rows_per_part: rows of a file, which are held in memory until it is written.
        schema: a pyarrow.Schema that fixes the columns; without one they are the keys of all rows,
            each with the type that its values have.
    """

    _journal: BinaryIO | None = None
    _columns: ParquetColumns

    def __init__(
        self, path: str | os.PathLike[str], *, rows_per_part: int = 50_000, schema: Any = None
    ) -> None:
        if rows_per_part < 1:
            raise ValueError(f"rows_per_part must be at least 1, not {rows_per_part}")
        self._path = local_path(path)
        self._partial = partial_path(self._path)
        self._rows_per_part = rows_per_part
        self._schema = schema
        self._part = 0  # the number of the part to come
        self._rows: list[Row] = []  # of that part
        self._in_journal = 0  # how many of them

    def setup(self) -> None:
        """Check that Parquet files can be written."""
        require_pyarrow()

    def begin(self, state: int | None) -> None:
        """Open the partial folder with the first ``state`` rows in it."""
        if state is not None and not self._partial.exists() and self._published(state):
            replace(self._path, self._partial)  # it was published, and then the run was killed
        self._check_free()
        self._journal = open_locked(self._partial / ".journal")
        sync_path(self._partial.parent)
        self._check_free()  # another run may have ended before its lock could be had
        self._part, count = divmod(state or 0, self._rows_per_part)
        complete = [self._part_path(number) for number in range(self._part)]
        found = all(path.exists() for path in complete)
        if found:
            self._recall(count)
        if not found or len(self._rows) < count:
            raise OutputFileError(
                str(self._partial),
                f"it has not the {state} rows that the checkpoint has counted",
                hint="bring them back, or begin anew by deleting the checkpoint",
            )
        for leftover in set(self._partial.glob("part-*")) - set(complete):
            leftover.unlink()

    def execute(self, record: Any) -> None:
        """Take one row; where it raises, the row is left out, and the next one can be taken."""
        if not isinstance(record, dict):
            raise TypeError(f"a row of a Parquet file is a dict, not {record!r}")
        try:
            row = self._columns.take(record, self._rows)
        except ValueError as error:
            raise OutputFileError(
                str(self._path),
                f"row {self.state() + 1}, {error}",
                hint="mend it by a map() before the sink, or pass a schema= that it fits",
            ) from error
        self._rows.append(row)
        if len(self._rows) >= self._rows_per_part:
            try:
                self._write_part()
            except BaseException:
                del self._rows[-1:]  # which gets this error, and may go to the dead letters
                raise

    def state(self) -> int:
        """Return how many rows were taken."""
        return self._part * self._rows_per_part + len(self._rows)

    def sync(self) -> None:
        """Bring the rows of the part to come into the journal; the parts are on the disk."""
        if self._journal is not None and len(self._rows) > self._in_journal:
            start = self._in_journal
            piece = (self._part, start, self._rows[start:], self._columns.schema)
            pickle.dump(piece, self._journal)
            sync(self._journal)
            self._in_journal = len(self._rows)

    def finish(self) -> None:
        """Write the last part, and give the folder its name."""
        if self._rows or not self._part:
            self._write_part()
        self._unify()
        replace(self._partial, self._path)
        (self._path / ".journal").unlink()  # only now: until here it keeps other runs out

    def output_name(self) -> str:
        """Return the absolute path."""
        return str(self._path.resolve())

    def output_problem(self) -> str | None:
        """Return that the output is not there; None if it is."""
        return None if self._path.is_dir() else f"{self._path} is not there"

    def cleanup(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            close(self._journal)

    def _part_path(self, number: int) -> Path:
        return self._partial / f"part-{number:05}.parquet"

    def _write_part(self) -> None:
        path = self._part_path(self._part)
        temporary = path.with_suffix(".new")
        write_rows(temporary, self._rows, self._columns.schema)
        sync_path(temporary)
        replace(temporary, path)
        self._part += 1
        self._rows = []
        self._clear_journal()  # only now: the rows are in the part

    def _unify(self) -> None:
        """Give all parts the columns of the last one, which has those of all rows.

        A kill in between does no harm: it is the same rows before and after.
        """
        schema = self._columns.schema
        for path in map(self._part_path, range(self._part)):
            if self._schema is None and not read_columns(path).equals(schema):
                temporary = path.with_suffix(".new")
                rewrite(path, temporary, schema)
                sync_path(temporary)
                replace(temporary, path)

    def _written(self, name: str) -> Iterator[Any]:
        """Yield what the parts have of a column."""
        for path in map(self._part_path, range(self._part)):
            values = read_column(path, name)
            if values is not None:
                yield values

    def _recall(self, count: int) -> None:
        """Take back the first rows of the part to come; in the end the journal has them."""
        assert self._journal is not None  # noqa: S101 - for the type checker; begin() has set it
        path = self._part_path(self._part)
        if not count:
            self._clear_journal()
            self._set_columns(read_columns(self._part_path(self._part - 1)) if self._part else None)
        elif path.exists():  # written after the commit; it cleared the journal
            self._clear_journal()
            self._set_columns(read_columns(path))
            self._rows = [row for rows in read_rows(path) for row in rows][:count]
            self.sync()
        else:
            self._read_journal(self._journal)
            del self._rows[count:]
            self._in_journal = len(self._rows)

    def _read_journal(self, journal: BinaryIO) -> None:
        end = 0
        while True:
            try:
                part, start, rows, schema = pickle.load(journal)
            except (EOFError, pickle.UnpicklingError):
                break  # the end, or a piece that a kill has cut and no commit has counted
            end = journal.tell()
            if part == self._part:
                self._rows[start:] = rows  # a later piece stands in for what no commit counted
                self._set_columns(schema)
        journal.seek(end)
        journal.truncate()

    def _set_columns(self, schema: Any) -> None:
        """Go on with the columns of earlier rows, unless there are given ones."""
        grow = self._schema is None
        self._columns = ParquetColumns(
            schema if grow else self._schema, grow=grow, written=self._written
        )

    def _published(self, state: int) -> bool:
        """Whether the folder at ``path`` has the parts that so many rows make."""
        parts = max(1, -(-state // self._rows_per_part))
        names = {path.name for path in self._path.glob("*")} - {".journal"}
        return names == {self._part_path(number).name for number in range(parts)}

    def _check_free(self) -> None:
        if self._path.exists():
            raise OutputFileError(str(self._path), "it exists", hint="delete it or write elsewhere")

    def _clear_journal(self) -> None:
        assert self._journal is not None  # noqa: S101 - for the type checker; begin() has set it
        self._journal.seek(0)
        self._journal.truncate()
        self._in_journal = 0
