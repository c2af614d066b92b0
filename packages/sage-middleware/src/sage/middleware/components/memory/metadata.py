"""Metadata: a flat dict per text, and the fields of it that filters can use."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sage.common.core.errors import nearest
from sage.middleware.components.memory.errors import UnusableValueError
from sage.middleware.components.memory.records import Value

FieldType = type[str] | type[int] | type[float] | type[bool]

_TYPES: dict[str, FieldType] = {"str": str, "int": int, "float": float, "bool": bool}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_fields(fields: Mapping[str, Any]) -> dict[str, FieldType]:
    """Return the declared fields, their types as types; raises UnusableValueError.

    A type is ``str``, ``int``, ``float`` or ``bool``, or the name of one as configurations have.
    """
    checked: dict[str, FieldType] = {}
    for name, given in fields.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "id":
            raise UnusableValueError(
                f"a field's name is letters, digits and _, and not 'id', not {name!r}"
            )
        type_name = given if isinstance(given, str) else getattr(given, "__name__", repr(given))
        if type_name not in _TYPES:
            raise UnusableValueError(
                f"field {name!r} has the unknown type {type_name!r}",
                hint=nearest(type_name, list(_TYPES)),
            )
        checked[name] = _TYPES[type_name]
    return checked


def check_metadata(metadata: Any, fields: Mapping[str, FieldType]) -> dict[str, Value]:
    """Return a text's metadata as it is stored; raises UnusableValueError for what cannot be.

    None means not given, numbers and texts of NumPy are those of Python.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise UnusableValueError(f"metadata must be a flat dict, not {metadata!r}")
    checked: dict[str, Value] = {}
    for name, given in metadata.items():
        if not isinstance(name, str):
            raise UnusableValueError(f"metadata has the key {name!r}", hint="keys are strings")
        value = plain(given)
        if value is None:
            continue
        problem = value_problem(value, fields.get(name), lists=True)
        if problem:
            raise UnusableValueError(f"metadata {name!r} is {given!r}: {problem}")
        checked[str(name)] = value
    return checked


def plain(value: Any) -> Any:
    """Return a value of NumPy as Python's, a sequence as a list, anything else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def value_problem(value: Any, type_: FieldType | None, *, lists: bool = False) -> str | None:
    """Return why a value is none of a field's, None if it is one; undeclared fields take any.

    ``lists`` says whether a list of texts is a value too: it can be kept, not compared.
    """
    kind = type(value)
    if kind is list and lists and type_ is None:
        if not all(type(one) is str for one in value):
            return "of lists only those of texts are kept"
        return None if all(map(is_unicode, value)) else "a text in it is no valid Unicode"
    if kind not in (str, int, float, bool):  # no subclasses: a bool is an int to isinstance()
        if type_ is not None:
            return f"the field was declared {type_.__name__}"
        return "values are str, int, float, bool or a list of str"
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
