"""Vector memory on disk: texts with metadata, found again by what they mean."""

from __future__ import annotations

from sage.middleware.components.memory.collection import VDBMemoryCollection
from sage.middleware.components.memory.errors import (
    CollectionNotFoundError,
    DimensionMismatchError,
    DuplicateIdError,
    EmbedderMismatchError,
    InvalidFilterError,
    InvalidRecordError,
    MemoryCollectionError,
    MemoryStorageError,
)
from sage.middleware.components.memory.records import MemoryRecord, SearchHit
from sage.middleware.components.memory.service import VDBMemoryService
from sage.middleware.components.memory.service_config import VDBMemoryServiceConfig
from sage.middleware.components.memory.text_splitter import TextChunk, TextSplitter

__all__ = [
    "CollectionNotFoundError",
    "DimensionMismatchError",
    "DuplicateIdError",
    "EmbedderMismatchError",
    "InvalidFilterError",
    "InvalidRecordError",
    "MemoryCollectionError",
    "MemoryRecord",
    "MemoryStorageError",
    "SearchHit",
    "TextChunk",
    "TextSplitter",
    "VDBMemoryCollection",
    "VDBMemoryService",
    "VDBMemoryServiceConfig",
]
