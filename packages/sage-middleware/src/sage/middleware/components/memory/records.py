"""What a collection gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = str | int | float | bool | list[str]


@dataclass(frozen=True, kw_only=True)
class MemoryRecord:
    """One text with its metadata, which has no key whose value was not given."""

    id: str
    text: str
    metadata: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SearchHit(MemoryRecord):
    """A record that a search found.

    ``score`` grows with the match: the cosine similarity, -1 to 1, of a vector search; BM25 of a
    text search; reciprocal rank fusion of a hybrid one; what a reranker says of it, where one was
    given. Compare scores of one kind only.
    """

    score: float
