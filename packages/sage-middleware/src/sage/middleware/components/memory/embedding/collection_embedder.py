"""CollectionEmbedder: the embedder of a collection, which is the one that it was filled with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from sage.middleware.components.memory.embedding.embedder import Embedder, Vectors
from sage.middleware.components.memory.errors import (
    DimensionMismatchError,
    EmbedderMismatchError,
)
from sage.middleware.components.memory.lance.store import LanceStore

# Of one model with other numbers (bfloat16, int8, another machine) vectors are nearer than this to
# each other; of two models they hardly ever are.
_SAME = 0.98


@dataclass(frozen=True, kw_only=True)
class RememberedEmbedder:
    """What a collection remembers of its embedder.

    ``probe`` is a text of the collection, ``document`` the vector that it got, and ``query`` that
    as a query, where another embedder makes those.
    """

    identity: str
    document_prefix: str
    query_prefix: str
    probe: str
    document: list[float]
    query: list[float] | None

    @classmethod
    def of(cls, store: LanceStore) -> Self | None:
        """Return what a table remembers, None if all its vectors were given."""
        return None if store.embedder is None else cls(**json.loads(store.embedder))


class CollectionEmbedder:
    """Makes vectors of documents and queries, after a look whether they fit the collection's.

    Names say little: a model that moved has another one, and two functions may share one. So the
    embedder embeds a text of the collection again, once, and must make the vector that it got.

    Args:
        name: of the collection.
        embedder: as VDBMemoryCollection takes it; a tuple of two has one for documents and one
            for queries.
        document_prefix, query_prefix: what to put before the texts; None means as remembered, else
            as the model's own prompts say, else nothing.
    """

    def __init__(
        self,
        name: str,
        embedder: Any,
        *,
        batch_size: int,
        document_prefix: str | None,
        query_prefix: str | None,
    ) -> None:
        self._name = name
        documents, queries = embedder if isinstance(embedder, tuple) else (embedder, embedder)
        self._documents = Embedder(documents, batch_size)
        self._queries = Embedder(queries, batch_size)
        self._is_pair = queries is not documents
        self._document_prefix = document_prefix
        self._query_prefix = query_prefix
        self._remembered: RememberedEmbedder | None = None  # once it is known to be this one

    def embed_documents(self, store: LanceStore | None, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts to store, as ``embed_query``."""
        remembered = self._checked(store)
        return self._documents(_prefixed(self._prefix("document", remembered), texts))

    def embed_query(self, store: LanceStore | None, text: str) -> Vectors:
        """Return the vector of a query, as an array of one row; raises EmbedderMismatchError."""
        remembered = self._checked(store)
        return self._queries(_prefixed(self._prefix("query", remembered), [text]))

    def remember(self, store: LanceStore, texts: Sequence[str], vectors: Vectors) -> None:
        """Let a table remember this embedder, by texts and the vectors that it made of them.

        Raises EmbedderMismatchError if it remembers another one already. One caller at a time.
        """
        if self._checked(store) is not None:
            return
        number = min(range(len(texts)), key=lambda n: len(texts[n]))
        query = self.embed_query(store, texts[number])[0].tolist() if self._is_pair else None
        remembered = RememberedEmbedder(
            identity=self._identity(),
            document_prefix=self._prefix("document", None),
            query_prefix=self._prefix("query", None),
            probe=texts[number],
            document=vectors[number].tolist(),
            query=query,
        )
        store.remember_embedder(json.dumps(asdict(remembered)))
        self._remembered = remembered

    def _checked(self, store: LanceStore | None) -> RememberedEmbedder | None:
        """Return what a table remembers, if this is the embedder that it remembers."""
        if store is None or self._remembered is not None:
            return self._remembered
        remembered = RememberedEmbedder.of(store)
        if remembered is None:
            return None
        given = self._document_prefix
        if given is not None and given != remembered.document_prefix:
            raise EmbedderMismatchError(
                self._name,
                f"{remembered.identity} and document_prefix={remembered.document_prefix!r}",
                f"document_prefix={given!r}",
            )
        probes = [(self._documents, remembered.document_prefix, remembered.document)]
        if remembered.query is not None:
            probes.append((self._queries, remembered.query_prefix, remembered.query))
        elif self._is_pair:
            probes.append((self._queries, remembered.document_prefix, remembered.document))
        for embedder, prefix, known in probes:
            (vector,) = embedder([prefix + remembered.probe])
            if len(vector) != len(known):
                raise DimensionMismatchError(self._name, len(known), len(vector))
            likeness = _cosine(vector, np.asarray(known))
            if likeness < _SAME:
                raise EmbedderMismatchError(
                    self._name,
                    remembered.identity,
                    f"{self._identity()}, whose vector of {remembered.probe[:40]!r} has a cosine "
                    f"of {likeness:.2f} to the one stored",
                )
        self._remembered = remembered
        return remembered

    def _identity(self) -> str:
        one, other = self._documents.identity, self._queries.identity
        return f"{one} (documents) and {other} (queries)" if self._is_pair else one

    def _prefix(self, kind: str, remembered: RememberedEmbedder | None) -> str:
        is_query = kind == "query"
        given = self._query_prefix if is_query else self._document_prefix
        if given is not None:
            return given
        if remembered is not None:
            return remembered.query_prefix if is_query else remembered.document_prefix
        prompts = (self._queries if is_query else self._documents).prompts
        return prompts.get(kind) or ("" if is_query else prompts.get("passage", ""))


def _prefixed(prefix: str, texts: Sequence[str]) -> Sequence[str]:
    return [prefix + text for text in texts] if prefix else texts


def _cosine(one: Any, other: Any) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
