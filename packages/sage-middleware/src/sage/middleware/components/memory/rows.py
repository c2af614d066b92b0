"""Rows: what an insert was given, checked."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.middleware.components.memory.errors import (
    DuplicateIdError,
    InvalidRecordError,
    UnusableValueError,
)
from sage.middleware.components.memory.metadata import FieldType, check_metadata, is_unicode
from sage.middleware.components.memory.records import Value


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Texts with their ids and metadata: as many of each."""

    ids: Sequence[str]
    texts: Sequence[str]
    metadata: Sequence[Mapping[str, Value]]

    @classmethod
    def checked(
        cls,
        collection: str,
        fields: Mapping[str, FieldType],
        *,
        texts: Any,
        metadata: Any,
        ids: Any,
    ) -> Rows:
        """Check all of them and make the ids that are not given.

        Raises InvalidRecordError, naming the first that is wrong, and DuplicateIdError.
        """
        try:
            texts = checked_strings("text", texts)
            count = len(texts)
            ids = [str(uuid.uuid4()) for _ in texts] if ids is None else checked_strings("id", ids)
            metadata = [None] * count if metadata is None else _listed("metadata", metadata)
            _check_length("metadata", metadata, count)
            _check_length("ids", ids, count)
            metadata = [_metadata(number, one, fields) for number, one in enumerate(metadata)]
        except UnusableValueError as error:
            raise InvalidRecordError(collection, error.problem, error.hint) from error
        twice = [id_ for id_, times in Counter(ids).items() if times > 1]
        if twice:
            raise DuplicateIdError(collection, twice)
        return cls(ids=ids, texts=texts, metadata=metadata)


def checked_strings(kind: str, given: Any) -> list[str]:
    """Return a list of strings that can be stored; raises UnusableValueError."""
    strings = _listed(f"{kind}s", given)
    for number, one in enumerate(strings):
        if not isinstance(one, str) or not one:
            raise UnusableValueError(f"{kind} {number} must be a non-empty string, not {one!r}")
        if not is_unicode(one):
            raise UnusableValueError(f"{kind} {number} is no valid Unicode: {one!r}")
    return strings


def one(value: Any) -> list[Any] | None:
    """Return a list of the one value, None for None."""
    return None if value is None else [value]


def _listed(name: str, given: Any) -> list[Any]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise UnusableValueError(f"{name} must be a list, not {given!r}")
    return list(given)


def _check_length(name: str, values: Sequence[Any], count: int) -> None:
    if len(values) != count:
        raise UnusableValueError(f"{len(values)} {name} were given for {count} texts")


def _metadata(number: int, given: Any, fields: Mapping[str, FieldType]) -> dict[str, Value]:
    try:
        return check_metadata(given, fields)
    except UnusableValueError as error:
        raise UnusableValueError(f"text {number}: {error.problem}", hint=error.hint) from None
