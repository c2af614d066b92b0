"""A record as a line of JSON, and back: which values JSON can hold, and as what."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Literal, get_args
from uuid import UUID

from sage.common.core.errors import nearest
from sage.kernel.runtime.failed_record import FailedRecord

NotFinite = Literal["keep", "null", "raise"]
"""What becomes of NaN and infinities of an input: kept, read as null, or the record's error."""


class NotFiniteNumber(ValueError):  # noqa: N818 - it only says why a line is no JSON
    """A line has a number that JSON does not."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is no number that JSON has")


def check_not_finite(choice: str) -> None:
    """Raise ValueError unless it is a NotFinite."""
    if choice not in get_args(NotFinite):
        hint = nearest(choice, list(get_args(NotFinite)))
        raise ValueError(f"not_finite takes 'keep', 'null' or 'raise', not {choice!r}; {hint}")


def as_line(record: Any) -> bytes:
    """Return a record as JSON in UTF-8; raises ValueError or TypeError for what JSON cannot hold.

    Dates, times and UUIDs become their ISO text, durations ISO 8601 seconds such as ``PT90.5S``,
    decimals the text of the number, bytes Base64, numbers and arrays of NumPy numbers and lists;
    so do such keys of a dict.
    """
    try:
        text = _dumps(record, ensure_ascii=False)
    except ValueError as error:
        # Python's json has no types of errors, so its words have to tell that a number is not
        # finite from a record that contains itself; the other ValueErrors are from here.
        if not str(error).startswith("Out of range float"):
            raise
        found = next(not_finite_in(record, "record"), "a number of the record is not finite")
        raise ValueError(
            f"{found}, for which JSON has no number; turn it into None or a string by a map() "
            f"before the sink"
        ) from error
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only escape
        return _dumps(record, ensure_ascii=True).encode()


def line_decoder(not_finite: NotFinite) -> Callable[[str], Any]:
    """Return a function from a line to its record; it raises ValueError where that is no JSON."""
    if not_finite == "keep":
        return json.JSONDecoder().decode

    def constant(name: str) -> float | None:
        if not_finite == "null":
            return None
        raise NotFiniteNumber(name)

    def number(text: str) -> float | None:
        value = float(text)
        return value if math.isfinite(value) else constant(text)

    return json.JSONDecoder(parse_float=number, parse_constant=constant).decode


def _dumps(record: Any, *, ensure_ascii: bool) -> str:
    def dumps(value: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, allow_nan=False, default=_as_json)

    try:
        return dumps(record)
    except TypeError as error:
        if not str(error).startswith("keys must be"):  # json's words: it has no type for that
            raise
        return dumps(_with_text_keys(record))


def not_finite_in(value: Any, where: str) -> Iterator[str]:
    """Yield where numbers are that JSON does not have, in the order in which they are written."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where} is {value!r}"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from not_finite_in(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from not_finite_in(item, f"{where}[{index}]")


def _as_json(value: Any) -> Any:
    """Return what stands for a value in JSON; raises TypeError if nothing does."""
    if isinstance(value, FailedRecord):
        return _letter(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        seconds = Decimal(value // timedelta(microseconds=1)) / 1_000_000
        return f"{'-' if seconds < 0 else ''}PT{abs(seconds):f}S"
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if getattr(getattr(value, "dtype", None), "kind", None) in tuple("biufU"):  # NumPy's
        return value.tolist()
    raise TypeError(
        f"a {type(value).__name__} cannot be written as JSON: {value!r}; turn it into a string, "
        f"number, list or dict by a map() before the sink"
    )


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_with_text_keys(item) for item in value]
    if not isinstance(value, dict):
        return value
    with_texts = {_key(key): _with_text_keys(item) for key, item in value.items()}
    if len(with_texts) < len(value):
        raise ValueError(f"two keys are one text in JSON: {value!r}")
    return with_texts


def _key(key: Any) -> Any:
    return key if isinstance(key, str | int | float | None) else _as_json(key)


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
    """Return what JSON can hold of a value, and the repr() of what it cannot.

    A dead letter that cannot be written would stop the run that it is to save.
    """
    if isinstance(value, dict):
        return {_plain_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value)):
        return value
    try:
        return _plain(_as_json(value))
    except TypeError:
        return repr(value)


def _plain_key(key: Any) -> Any:
    plain = _plain(key)
    return plain if isinstance(plain, str | int | None) else repr(key)
