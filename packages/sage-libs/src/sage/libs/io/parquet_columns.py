"""ParquetColumns: what a row must be like, so that a Parquet file can hold it with the others."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sage.libs.io.parquet_files import as_stored

Row = dict[str, Any]

_NOT_CONVERTED = (ValueError, TypeError, OverflowError, NotImplementedError)  # of pyarrow
_LONG = 32  # items: such a list pyarrow looks through faster than Python


class ParquetColumns:
    """The names and types of columns: a schema's, or with ``grow`` those that the rows bring.

    Where they grow, a column has the first type that is not null, and takes what needs a wider
    one of the same kind: whole numbers and then fractions, dicts with further keys. ``written``
    gives the values of a column that are in files already, as pyarrow's arrays: they will have to
    be of the wider type too.
    """

    def __init__(
        self,
        schema: Any,
        *,
        grow: bool,
        written: Callable[[str], Iterable[Any]],
    ) -> None:
        import pyarrow

        self._written = written
        self.schema = pyarrow.schema([]) if schema is None else schema
        self._grow = grow
        self._shapes = {field.name: _shape(field.type) for field in self.schema}

    def take(self, row: Row, before: Sequence[Row]) -> Row:
        """Return a row's own columns, which now can be written with the rows ``before`` it.

        Raises ValueError with what is wrong; then nothing has changed.
        """
        if not self._grow:
            row = {name: row[name] for name in self.schema.names if name in row}
        grown: dict[str, Any] = {}
        for name in row if self._grow else self.schema.names:
            value = row.get(name)
            if name in self._shapes and value is not None and _has(self._shapes[name], value):
                continue  # which is nearly always so
            try:
                if self._grow:
                    grown |= self._with(name, value, before)
                else:
                    _check(self.schema.field(name), value)
            except _NOT_CONVERTED as error:
                raise ValueError(self._problem(name, value, error)) from error
        if not (self._shapes or grown):
            raise ValueError("it has no columns")
        if grown:
            self._add(grown)
        return dict(row) if self._grow else row

    def _with(self, name: str, value: Any, before: Sequence[Row]) -> dict[str, Any]:
        """Return the column with the type that it needs for a value; nothing if it has it."""
        import pyarrow

        known = self._type(name)
        if value is None and known is not None:
            return {}
        found = pyarrow.array([value]).type
        wider = found if known is None else _wider(known, found)
        pyarrow.array([value], wider)  # a whole number may be too large for a column of fractions
        if wider == known:
            return {}
        if known is not None:
            pyarrow.array([row.get(name) for row in before], wider)
            if not _only_adds(known, wider):
                for values in self._written(name):
                    values.cast(wider)
        return {name: as_stored(pyarrow.field(name, wider))}

    def _add(self, grown: dict[str, Any]) -> None:
        import pyarrow

        fields = {field.name: field for field in self.schema} | grown
        self.schema = pyarrow.schema(list(fields.values()))
        self._shapes |= {name: _shape(field.type) for name, field in grown.items()}

    def _type(self, name: str) -> Any:
        return self.schema.field(name).type if name in self._shapes else None

    def _problem(self, name: Any, value: Any, error: Exception) -> str:
        known = self._type(name)
        column = "a new column" if known is None else f"a column of type {known}"
        return (
            f"column {name!r}: {reprlib.repr(value)} of type {type(value).__name__} cannot stand "
            f"in {column} ({error})"
        )


def _shape(type_: Any) -> Any:
    """Return what _has() knows of a type; None if pyarrow has to look at each value.

    It is a Python type, of a struct the shapes of its fields, of a list that of its items in a
    list.
    """
    from pyarrow import types

    if types.is_struct(type_) and "not null" not in str(type_):
        return {field.name: _shape(field.type) for field in type_}
    if types.is_list(type_) and "not null" not in str(type_):
        return [_shape(type_.value_type)]
    exact = [
        (types.is_string, str), (types.is_int64, int), (types.is_float64, float),
        (types.is_boolean, bool),
    ]  # fmt: skip
    return next((python for is_it, python in exact if is_it(type_)), None)


def _has(shape: Any, value: Any) -> bool:
    """Whether a value surely has a shape: thirty times as fast as asking pyarrow."""
    kind = type(value)
    if value is None:
        return True
    if kind is not shape:
        if kind is dict:
            return type(shape) is dict and all(
                name in shape and _has(shape[name], item) for name, item in value.items()
            )
        return (
            kind is list
            and type(shape) is list
            and len(value) < _LONG
            and all(_has(shape[0], item) for item in value)
        )
    if kind is str:
        return bool(value.isascii())  # pyarrow knows which other strings are no text
    return kind is not int or -(2**63) <= value < 2**63


def _wider(old: Any, new: Any) -> Any:
    """Return the type that values of both can have; raises ValueError if there is none."""
    import pyarrow
    from pyarrow import types

    def all_are(*kinds: Any) -> bool:
        return all(any(is_it(type_) for is_it in kinds) for type_ in (old, new))

    if types.is_null(old):
        return new
    if old == new or types.is_null(new):
        return old
    if all_are(types.is_list):
        return pyarrow.list_(_wider(old.value_type, new.value_type))
    if all_are(types.is_struct):
        fields = {field.name: field.type for field in old}
        for field in new:
            fields[field.name] = _wider(fields.get(field.name, pyarrow.null()), field.type)
        return pyarrow.struct(list(fields.items()))
    if all_are(types.is_timestamp) and old.tz and new.tz:
        return old  # the same moments
    whole = types.is_integer
    if all_are(whole, types.is_floating) or all_are(whole, types.is_decimal):
        pair = [pyarrow.schema([("", type_)]) for type_ in (old, new)]
        return pyarrow.unify_schemas(pair, promote_options="permissive").field(0).type
    raise ValueError(f"it would be of type {new}")


def _only_adds(old: Any, new: Any) -> bool:
    """Whether every value of a type surely has a place in a wider one: it adds fields at most."""
    from pyarrow import types

    if types.is_struct(old) and types.is_struct(new):
        return all(_only_adds(field.type, new.field(field.name).type) for field in old)
    if types.is_list(old) and types.is_list(new):
        return _only_adds(old.value_type, new.value_type)
    return types.is_null(old) or bool(old == new)


def _check(field: Any, value: Any) -> None:
    """Raise an error if a column of a given schema cannot hold a value."""
    import pyarrow
    from pyarrow import types

    if value is None:
        if not field.nullable:
            raise ValueError("it is declared non-nullable")
        return
    array = pyarrow.array([value], field.type)
    if types.is_integer(field.type) and array[0].as_py() != value:
        raise ValueError("it is no whole number")  # pyarrow would cut it off
    if "not null" in str(field.type):  # somewhere inside, which only writing it tells
        as_stored(field, array)
