"""Metadata: a flat dict per text, and the fields of it that filters can use."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from sage.common.core.errors import nearest
from sage.middleware.components.memory.records import Scalar

FieldType = type[str] | type[int] | type[float] | type[bool]

_TYPES: dict[str, FieldType] = {"str": str, "int": int, "float": float, "bool": bool}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_fields(fields: Mapping[str, Any]) -> dict[str, FieldType]:
    """Return the declared fields, their types as types; raises ValueError.

    A type is ``str``, ``int``, ``float`` or ``bool``, or the name of one as configurations have.
    """
    checked: dict[str, FieldType] = {}
    for name, given in fields.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "id":
            raise ValueError(f"a field's name is letters, digits and _, and not 'id', not {name!r}")
        type_name = given if isinstance(given, str) else getattr(given, "__name__", repr(given))
        if type_name not in _TYPES:
            raise ValueError(
                f"field {name!r} has the unknown type {type_name!r}; "
                f"{nearest(type_name, list(_TYPES))}"
            )
        checked[name] = _TYPES[type_name]
    return checked


def check_metadata(metadata: Any, fields: Mapping[str, FieldType]) -> dict[str, Scalar]:
    """Return a copy of a text's metadata; raises ValueError for what cannot be stored."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise ValueError(f"metadata must be a flat dict, not {metadata!r}")
    for name, value in metadata.items():
        if not isinstance(name, str):
            raise ValueError(f"metadata has the key {name!r}; keys are strings")
        problem = value_problem(value, fields.get(name))
        if problem:
            raise ValueError(f"metadata {name!r} is {value!r}: {problem}")
    return dict(metadata)


def value_problem(value: Any, type_: FieldType | None) -> str | None:
    """Return why a value is none of a field's, None if it is one; undeclared fields take any."""
    kind = type(value)
    if kind not in (str, int, float, bool):  # no subclasses: a bool is an int to isinstance()
        return "values are str, int, float or bool"
    if kind is float and not math.isfinite(value):
        return "numbers must be finite"
    if type_ is not None and kind is not type_ and (kind, type_) != (int, float):
        return f"the field was declared {type_.__name__}"
    if kind is int and not -(2**63) <= value < 2**63:
        return "integers must fit in 64 bits"
    if kind is str and not is_unicode(value):
        return "it is no valid Unicode"
    return None


def is_unicode(text: str) -> bool:
    """Whether a string can be stored: half a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
