"""Errors of vector memory.

MemoryCollectionError        (SageError)
├── CollectionNotFoundError  (LookupError)  read, or create=False, and there is none
├── DimensionMismatchError   (ValueError)   vectors of another length than those stored
├── DuplicateIdError         (ValueError)   insert of an id that is there already
├── EmbedderMismatchError    (ValueError)   another embedder than the one it was filled with
├── InvalidFilterError       (ValueError)   a filter on no field, or with a value of no use
├── InvalidRecordError       (ValueError)   a text, metadata, id or vector that cannot be stored
└── MemoryStorageError       (OSError)      the files could not be read or written
"""

from __future__ import annotations

from sage.common.core.errors import SageError, nearest


class MemoryCollectionError(SageError):
    """Base of the errors of vector memory; ``collection`` names it."""

    def __init__(self, collection: str, *facts: object) -> None:
        super().__init__(collection, *facts)
        self.collection = collection


class CollectionNotFoundError(MemoryCollectionError, LookupError):
    """The folder has no such collection."""

    def __init__(self, collection: str, folder: str, existing: list[str]) -> None:
        super().__init__(collection, folder, existing)
        self.folder = folder
        self.existing = existing

    def __str__(self) -> str:
        return (
            f"no collection {self.collection!r} in {self.folder}; "
            f"{nearest(self.collection, self.existing)} The first insert makes one, and with "
            f"create=True an empty one can be read before"
        )


class DimensionMismatchError(MemoryCollectionError, ValueError):
    """The vectors given are not as long as those in the collection."""

    def __init__(self, collection: str, stored: int, given: int) -> None:
        super().__init__(collection, stored, given)
        self.stored = stored
        self.given = given

    def __str__(self) -> str:
        return (
            f"collection {self.collection!r} holds vectors of {self.stored} numbers, these have "
            f"{self.given}: use the embedder that it was filled with, or another collection name "
            f"for this one"
        )


class DuplicateIdError(MemoryCollectionError, ValueError):
    """An id is in the collection already, or twice in one call; nothing was inserted."""

    def __init__(self, collection: str, ids: list[str]) -> None:
        super().__init__(collection, ids)
        self.ids = ids

    def __str__(self) -> str:
        shown = ", ".join(map(repr, self.ids[:3])) + (", ..." if len(self.ids) > 3 else "")
        return (
            f"ids given twice or in collection {self.collection!r} already: {shown}; nothing was "
            f"inserted; upsert replaces what is there"
        )


class EmbedderMismatchError(MemoryCollectionError, ValueError):
    """The collection was filled with another embedder: what it finds would make no sense."""

    def __init__(self, collection: str, stored: str, given: str) -> None:
        super().__init__(collection, stored, given)
        self.stored = stored
        self.given = given

    def __str__(self) -> str:
        return (
            f"collection {self.collection!r} was filled with {self.stored}, and this is "
            f"{self.given}: use what it was filled with, or another collection name"
        )


class InvalidFilterError(MemoryCollectionError, ValueError):
    """A filter that the collection cannot apply; ``reason`` says why and what is valid."""

    def __init__(self, collection: str, reason: str) -> None:
        super().__init__(collection, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"bad filter for collection {self.collection!r}: {self.reason}"


class InvalidRecordError(MemoryCollectionError, ValueError):
    """What was to be stored or searched for is not valid; nothing was changed."""

    def __init__(self, collection: str, reason: str) -> None:
        super().__init__(collection, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"collection {self.collection!r}: {self.reason}"


class MemoryStorageError(MemoryCollectionError, OSError):
    """The files of a collection could not be read or written; its cause is LanceDB's error."""

    def __init__(self, collection: str, doing: str, reason: str) -> None:
        super().__init__(collection, doing, reason)
        self.doing = doing
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"could not {self.doing} collection {self.collection!r}: {self.reason}; look whether "
            f"its folder is whole, can be written and has space left"
        )
