"""Reading and writing Parquet files with pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sage.libs.io.errors import InputFileError

_ROWS_AT_ONCE = 1024  # read into Python objects


def require_pyarrow() -> None:
    """Raise ImportError with what to install if pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise ImportError(
            "Parquet files need pyarrow; install it with: pip install 'isage-libs[parquet]'"
        ) from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise what pyarrow says of a file that it cannot read as an InputFileError."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise InputFileError(str(path), None, f"no Parquet file, or damaged: {error}") from error


def read_batches(
    path: Path, *, columns: Sequence[str] | None = None, skip: int = 0
) -> Iterator[Any]:
    """Yield a file's rows as pieces of pyarrow's, from row ``skip`` on.

    Row groups before it are not read.
    """
    from pyarrow.parquet import ParquetFile

    wanted = None if columns is None else list(columns)
    with naming(path), ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if skip >= count:
                skip -= count
                continue
            for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=wanted):
                yield batch.slice(skip)
                skip = max(0, skip - batch.num_rows)


def read_rows(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield a file's rows as dicts, in pieces."""
    for batch in read_batches(path):
        yield batch.to_pylist()


def count_rows(path: Path) -> int:
    """Return how many rows a file has, from its footer."""
    from pyarrow.parquet import read_metadata

    with naming(path):
        return int(read_metadata(path).num_rows)


def read_columns(path: Path) -> Any:
    """Return a file's columns as a pyarrow.Schema, from its footer."""
    from pyarrow.parquet import read_schema

    with naming(path):
        return read_schema(path)


def write_rows(path: Path, rows: Sequence[dict[str, Any]], schema: Any) -> None:
    """Write rows as a file with a schema's columns; a row without one has a null."""
    import pyarrow
    from pyarrow.parquet import write_table

    columns = {name: [row.get(name) for row in rows] for name in schema.names}
    write_table(pyarrow.table(columns, schema=schema), path)


def read_column(path: Path, name: str) -> Any:
    """Return a column of a file as pyarrow's array, None if the file has no such column."""
    from pyarrow.parquet import ParquetFile

    with naming(path), ParquetFile(path) as file:
        if name not in file.schema_arrow.names:
            return None
        return file.read(columns=[name]).column(name)


def rewrite(path: Path, target: Path, schema: Any) -> None:
    """Write a file's rows to another with the wider columns of a schema."""
    import pyarrow
    from pyarrow.parquet import ParquetFile, write_table

    with naming(path), ParquetFile(path) as file:
        table = file.read()
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.schema.names
        else pyarrow.nulls(table.num_rows, field.type)
        for field in schema
    ]
    write_table(pyarrow.table(columns, schema=schema), target)


def as_stored(column: Any, values: Any = ()) -> Any:
    """Return a pyarrow.Field as a file gives it back.

    Raises what pyarrow does if no file can hold it, or these values of it.
    """
    import pyarrow
    from pyarrow.parquet import read_schema, write_table

    file = pyarrow.BufferOutputStream()
    write_table(pyarrow.table([values], schema=pyarrow.schema([column])), file)
    return read_schema(pyarrow.BufferReader(file.getvalue())).field(0)
