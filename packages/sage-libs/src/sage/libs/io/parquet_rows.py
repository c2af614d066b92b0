"""Rows of a Parquet file as records: which columns there are, and values that Python can hold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from sage.common.core.errors import nearest
from sage.common.core.functions import UnreadableRecord
from sage.libs.io.errors import InputFileError
from sage.libs.io.json_lines import NotFinite, not_finite_in
from sage.libs.io.parquet_files import naming, read_batches

Record = dict[str, Any]


def check_columns(path: Path, columns: Sequence[str] | None) -> None:
    """Raise InputFileError unless a file has the columns, each once; None are all of them.

    ``a.b`` is a field of the column ``a``.
    """
    from pyarrow.parquet import ParquetFile

    with naming(path), ParquetFile(path) as file:
        there = Counter(file.schema_arrow.names)
        leaves = [file.schema.column(index).path for index in range(len(file.schema))]
    for name in there if columns is None else columns:
        if name not in there and not _is_field(name, leaves, there):
            reason = f"it has no column {name!r}"
            raise InputFileError(str(path), None, reason, hint=nearest(name, list(there)))
        if there[name] > 1:
            reason = f"it has {there[name]} columns {name!r}, of which a record can hold one"
            raise InputFileError(
                str(path), None, reason, hint="rename them, or name others by columns="
            )


def _is_field(name: str, leaves: Sequence[str], there: Counter[str]) -> bool:
    inside = (leaf for leaf in leaves if leaf == name or leaf.startswith(f"{name}."))
    return any(leaf.partition(".")[0] in there for leaf in inside)


def read_records(
    path: Path, columns: Sequence[str] | None, not_finite: NotFinite, *, skip: int
) -> Iterator[Record | UnreadableRecord]:
    """Yield the rows of a file from row ``skip`` on, each as a dict."""
    number = skip
    for batch in read_batches(path, columns=columns, skip=skip):
        has_floats = not_finite != "keep" and any(map(_may_be_nan, batch.schema))
        for row in _rows(path, batch, number):
            number += 1
            if has_floats and isinstance(row, dict):
                row = _finite(path, number, row, not_finite)
            yield row


def _rows(path: Path, batch: Any, before: int) -> list[Record | UnreadableRecord]:
    """Return the rows of a piece of a file; only where one cannot be read, one by one."""
    try:
        return _as_python(batch)
    except Exception as error:  # noqa: BLE001 - pyarrow and datetime raise many kinds
        if batch.num_rows == 1:
            return [_unreadable(path, before + 1, error)]
    pieces = (_rows(path, batch.slice(n, 1), before + n) for n in range(batch.num_rows))
    return [row for piece in pieces for row in piece]


def _as_python(batch: Any) -> list[Any]:
    import pyarrow

    fine: dict[str, list[Any]] = {}  # columns of moments that Python's datetime is too coarse for
    for index, field in enumerate(batch.schema):
        coarse = _in_microseconds(field.type)
        if coarse == field.type:
            continue
        column = batch.column(index)
        try:
            column = column.cast(coarse)
        except pyarrow.ArrowInvalid:  # it has nanoseconds
            if pyarrow.types.is_nested(field.type):
                raise
            fine[field.name] = _with_nanoseconds(column, coarse)
            column = pyarrow.nulls(len(column))
        batch = batch.set_column(index, field.name, column)
    rows: list[Any] = batch.to_pylist(maps_as_pydicts="strict")
    for name, values in fine.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


def _in_microseconds(type_: Any) -> Any:
    """Return a type with what is counted in nanoseconds counted in microseconds."""
    import pyarrow
    from pyarrow import types

    if types.is_struct(type_):
        return pyarrow.struct([field.with_type(_in_microseconds(field.type)) for field in type_])
    if types.is_list(type_):
        item = type_.value_field
        return pyarrow.list_(item.with_type(_in_microseconds(item.type)))
    if types.is_map(type_):
        item = type_.item_field
        return pyarrow.map_(type_.key_field, item.with_type(_in_microseconds(item.type)))
    if getattr(type_, "unit", None) != "ns":
        return type_
    if types.is_timestamp(type_):
        return pyarrow.timestamp("us", type_.tz)
    return pyarrow.duration("us") if types.is_duration(type_) else pyarrow.time64("us")


def _with_nanoseconds(column: Any, coarse: Any) -> list[Any]:
    """Return the values of a column, as text where they are no whole microseconds."""
    import pyarrow

    counts = column.cast(pyarrow.int64()).to_pylist()
    whole = [None if count is None else count // 1000 for count in counts]
    values: list[Any] = pyarrow.array(whole, pyarrow.int64()).cast(coarse).to_pylist()
    is_duration = pyarrow.types.is_duration(coarse)
    for index, count in enumerate(counts):
        if count is None or count % 1000 == 0:
            continue
        if is_duration:
            sign, seconds = "-" if count < 0 else "", Decimal(abs(count)).scaleb(-9)
            values[index] = f"{sign}PT{seconds:f}S"
        else:
            text = values[index].isoformat(timespec="microseconds")
            end = text.index(".") + 7
            values[index] = f"{text[:end]}{count % 1000:03}{text[end:]}"
    return values


def _may_be_nan(field: Any) -> bool:
    return any(kind in str(field.type) for kind in ("float", "double"))


def _finite(
    path: Path, number: int, row: Record, not_finite: NotFinite
) -> Record | UnreadableRecord:
    found = next(not_finite_in(row, "row"), None)
    if found is None:
        return row
    if not_finite == "null":
        return {name: _nulled(value) for name, value in row.items()}
    return _unreadable(path, number, ValueError(f'{found}; not_finite="null" reads None'))


def _nulled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nulled(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unreadable(path: Path, number: int, cause: Exception) -> UnreadableRecord:
    error = InputFileError(str(path), number, str(cause), unit="row")
    error.__cause__ = cause
    return UnreadableRecord(record={"path": str(path), "row": number}, error=error)
