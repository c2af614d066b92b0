"""Filters: a dict of conditions, made into the SQL expression that LanceDB takes.

``{"year": 2024}`` equals, ``{"year": {">=": 2020, "<": 2024}}`` compares, ``{"source": ["a",
"b"]}`` is any of them, ``{"source": None}`` is not given; all conditions must hold. A text whose
field is not given matches ``!=`` and ``not in``, as it would in Python.

Nothing of a value is ever SQL: field names come from the declaration, strings are quoted with
their quotes doubled (the dialect has no other escape), everything else is a checked number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage.common.core.errors import nearest
from sage.middleware.components.memory.errors import UnusableValueError
from sage.middleware.components.memory.metadata import FieldType, plain, value_problem

_COMPARISONS = {"==": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_MEMBERSHIPS = {"in": "IN", "not in": "NOT IN"}
_OPERATORS = [*_COMPARISONS, *_MEMBERSHIPS]


def column(field: str) -> str:
    """Return the name of the column that holds a declared field."""
    return f"meta_{field}"


def ids_expression(ids: list[str]) -> str:
    """Return the expression for rows with one of some ids; there must be one at least."""
    return f"`id` IN ({', '.join(map(_literal, ids))})"


def filter_expression(where: Mapping[str, Any], fields: Mapping[str, FieldType]) -> str | None:
    """Return the SQL expression of a filter, None for an empty one; raises UnusableValueError."""
    if not isinstance(where, Mapping):
        raise UnusableValueError(f"it must be a dict such as {{'year': 2024}}, not {where!r}")
    known: dict[str, FieldType] = {"id": str, **fields}
    parts: list[str] = []
    for field, condition in where.items():
        if field not in known:
            raise UnusableValueError(
                f"{field!r} is no field to filter by",
                hint=f"{nearest(str(field), list(known))} (fields are declared when the collection "
                "is made: fields={'name': type})",
            )
        name = "`id`" if field == "id" else f"`{column(field)}`"
        for operator, value in _conditions(condition):
            parts.append(_part(field, name, known[field], operator, value))
    return " AND ".join(parts) or None


def _conditions(condition: Any) -> list[tuple[Any, Any]]:
    condition = plain(condition)
    if isinstance(condition, Mapping):
        return list(condition.items())
    if isinstance(condition, list | tuple | set | frozenset):
        return [("in", condition)]
    return [("==", condition)]


def _part(field: str, name: str, type_: FieldType, operator: Any, value: Any) -> str:
    if operator not in _OPERATORS:
        raise UnusableValueError(
            f"field {field!r} has the unknown operator {operator!r}",
            hint=f"valid: {', '.join(_OPERATORS)}",
        )
    if operator in _MEMBERSHIPS:
        if not isinstance(value, list | tuple | set | frozenset):
            raise UnusableValueError(f"{operator!r} of field {field!r} takes a list, not {value!r}")
        literals = [_checked(field, type_, one) for one in value]
        if not literals:
            return "false" if operator == "in" else "true"
        part = f"{name} {_MEMBERSHIPS[operator]} ({', '.join(literals)})"
        return part if operator == "in" else f"({part} OR {name} IS NULL)"
    if value is None and operator in ("==", "!="):
        return f"{name} IS NULL" if operator == "==" else f"{name} IS NOT NULL"
    part = f"{name} {_COMPARISONS[operator]} {_checked(field, type_, value)}"
    return f"({part} OR {name} IS NULL)" if operator == "!=" else part


def _checked(field: str, type_: FieldType, value: Any) -> str:
    value = plain(value)
    problem = value_problem(value, type_)
    if problem:
        raise UnusableValueError(f"field {field!r} is compared with {value!r}: {problem}")
    return _literal(value)


def _literal(value: str | float) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if value == -(2**63) and isinstance(value, int):
        return f"({value + 1} - 1)"  # a minus is an operator, and 2**63 fits no integer
    return str(value).lower() if isinstance(value, bool) else repr(value)
