"""Errors of vector memory.

MemoryCollectionError        (SageError)
├── CollectionNotFoundError  (LookupError)  read, or create=False, and there is none
├── DimensionMismatchError   (ValueError)   vectors of another length than those stored
├── DuplicateIdError         (ValueError)   insert of an id that is there already
├── EmbedderMismatchError    (ValueError)   another embedder than the one it was filled with
├── InvalidFilterError       (ValueError)   a filter on no field, or with a value of no use
├── InvalidRecordError       (ValueError)   a text, metadata, id or vector that cannot be stored
└── MemoryStorageError       (OSError)      the files could not be read or written

UnusableValueError           (SageError, ValueError)  a field, a filter or a record by itself
"""

from __future__ import annotations

from typing import Unpack

from sage.common.core.errors import SageError, WayOut, nearest


class UnusableValueError(SageError, ValueError):
    """A declared field, or what becomes the problem of an invalid filter or record."""


class MemoryCollectionError(SageError):
    """Base of the errors of vector memory; ``collection`` names it."""

    def __init__(self, collection: str, problem: str, **way_out: Unpack[WayOut]) -> None:
        super().__init__(problem, **way_out)
        self.collection = collection


class CollectionNotFoundError(MemoryCollectionError, LookupError):
    """The folder has no such collection."""

    def __init__(self, collection: str, folder: str, existing: list[str]) -> None:
        super().__init__(
            collection,
            f"no collection {collection!r} in {folder}",
            hint=f"{nearest(collection, existing)} The first insert makes one, and with "
            "create=True an empty one can be read before",
        )
        self.folder = folder
        self.existing = existing


class DimensionMismatchError(MemoryCollectionError, ValueError):
    """The vectors given are not as long as those in the collection."""

    def __init__(self, collection: str, stored: int, given: int) -> None:
        super().__init__(
            collection,
            f"collection {collection!r} holds vectors of {stored} numbers, these have {given}",
            hint="use the embedder that it was filled with, or another collection name for this "
            "one",
        )
        self.stored = stored
        self.given = given


class DuplicateIdError(MemoryCollectionError, ValueError):
    """An id is in the collection already, or twice in one call; nothing was inserted."""

    def __init__(self, collection: str, ids: list[str]) -> None:
        shown = ", ".join(map(repr, ids[:3])) + (", ..." if len(ids) > 3 else "")
        super().__init__(
            collection,
            f"ids given twice or in collection {collection!r} already: {shown}; nothing was "
            f"inserted",
            hint="upsert replaces what is there",
        )
        self.ids = ids


class EmbedderMismatchError(MemoryCollectionError, ValueError):
    """The collection was filled with another embedder: what it finds would make no sense."""

    def __init__(self, collection: str, stored: str, given: str) -> None:
        super().__init__(
            collection,
            f"collection {collection!r} was filled with {stored}, and this is {given}",
            hint="use what it was filled with, or another collection name",
        )
        self.stored = stored
        self.given = given


class InvalidFilterError(MemoryCollectionError, ValueError):
    """A filter that the collection cannot apply, by ``reason``; the hint says what is valid."""

    def __init__(self, collection: str, reason: str, hint: str | None = None) -> None:
        problem = f"bad filter for collection {collection!r}: {reason}"
        super().__init__(collection, problem, hint=hint)
        self.reason = reason


class InvalidRecordError(MemoryCollectionError, ValueError):
    """What was to be stored or searched for is not valid, by ``reason``; nothing was changed."""

    def __init__(self, collection: str, reason: str, hint: str | None = None) -> None:
        super().__init__(collection, f"collection {collection!r}: {reason}", hint=hint)
        self.reason = reason


class MemoryStorageError(MemoryCollectionError, OSError):
    """The files of a collection could not be read or written; its cause is LanceDB's error."""

    def __init__(self, collection: str, doing: str, reason: str) -> None:
        super().__init__(
            collection,
            f"could not {doing} collection {collection!r}: {reason}",
            hint="look whether its folder is whole, can be written and has space left",
        )
        self.doing = doing
        self.reason = reason
