"""ReadableCollection: what a collection says of itself, and what it finds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sage.common.core.local_path import local_path
from sage.middleware.components.memory.collection_table import CollectionTable
from sage.middleware.components.memory.embedding.collection_embedder import CollectionEmbedder
from sage.middleware.components.memory.embedding.embedder import Vectors, to_array
from sage.middleware.components.memory.errors import (
    DimensionMismatchError,
    InvalidFilterError,
    InvalidRecordError,
    UnusableValueError,
)
from sage.middleware.components.memory.lance.filters import filter_expression
from sage.middleware.components.memory.lance.text_index import check_language
from sage.middleware.components.memory.metadata import FieldType, check_fields
from sage.middleware.components.memory.records import MemoryRecord, SearchHit
from sage.middleware.components.memory.reranker import Reranker
from sage.middleware.components.memory.rows import checked_strings
from sage.middleware.components.memory.search_mode import (
    SearchMode,
    check_candidates,
    check_page,
    check_query,
)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


class ReadableCollection:
    """The half of a VDBMemoryCollection that reads; the arguments are described there."""

    def __init__(
        self,
        folder: str | Path,
        name: str = "memory",
        *,
        embedder: Any = None,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        fields: Mapping[str, Any] | None = None,
        language: str | None = None,
        batch_size: int = 256,
        create: bool | None = None,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"a collection's name is letters, digits, _ and -, not {name!r}")
        self.folder = local_path(folder)
        self.name = name
        self._embedder = None
        if embedder is not None:
            self._embedder = CollectionEmbedder(
                name,
                embedder,
                batch_size=batch_size,
                document_prefix=document_prefix,
                query_prefix=query_prefix,
            )
        self._table = CollectionTable(
            self.folder,
            name,
            fields=None if fields is None else check_fields(fields),
            language=None if language is None else check_language(language),
            create=create,
        )

    @property
    def dim(self) -> int | None:
        """The length of the vectors; None before the first insert."""
        store = self._table.find()
        return None if store is None else store.dim

    @property
    def fields(self) -> dict[str, FieldType]:
        """The metadata that filters can use, and their types."""
        return self._table.fields

    @property
    def language(self) -> str:
        """The language of the texts, by which searches for words find them."""
        return self._table.language

    # -- reading --------------------------------------------------------------------------------

    def search(
        self,
        query: str | Sequence[float],
        k: int = 5,
        *,
        where: Mapping[str, Any] | None = None,
        mode: SearchMode = "vector",
        rerank: Any = None,
        candidates: int = 50,
    ) -> list[SearchHit]:
        """Return the ``k`` best records for a text or a vector, best first.

        Args:
            query: a text, or a vector for the mode ``"vector"``.
            k: how many at most.
            where: only among these, such as ``{"year": {">=": 2020}, "source": ["a", "b"]}``;
                operators are ``== != < <= > >= in`` and ``not in``.
            mode: ``"vector"`` by cosine similarity, ``"text"`` by the words (BM25), ``"hybrid"``
                by the ranks in both. Words in quotes, as in ``'"red fox" cub'``, are a phrase that
                a text must have to be found by its words.
            rerank: a VLLMService with a model that scores, or a function of a query and texts that
                returns a score for each. The best candidates go on in the order of its scores,
                which are then the hits'.
            candidates: how many records are found for it to score; no fewer than ``k``.

        Raises:
            CollectionNotFoundError, InvalidFilterError, InvalidRecordError,
            DimensionMismatchError.
        """
        check_query(query, k, mode)
        if rerank is not None:
            check_candidates(query, k, candidates)
            found = self.search(query, candidates, where=where, mode=mode)
            return Reranker(rerank).best(str(query), found, k)
        store = self._table.find_to_read()
        expression = self._expression(where)
        text = query if isinstance(query, str) else None
        vector = None
        if mode != "text":
            (vector,) = self._query_vector(query)
        if store is None:
            return []
        if mode != "vector" and not store.text_indexed:
            with self._table.locked():
                store.index_text()
        return store.search(mode, k, expression, vector=vector, text=text)

    def get(self, record_id: str) -> MemoryRecord | None:
        """Return the record with this id, None if there is none."""
        return self.get_batch([record_id])[0]

    def get_batch(self, ids: Sequence[str]) -> list[MemoryRecord | None]:
        """Return a record per id, None where there is none."""
        listed = self._ids(ids)
        store = self._table.find_to_read()
        found = {} if store is None else store.get(listed)
        return [found.get(id_) for id_ in listed]

    def count(self, where: Mapping[str, Any] | None = None) -> int:
        """Return how many records there are, or match a filter."""
        expression = self._expression(where)
        store = self._table.find_to_read()
        return 0 if store is None else store.count(expression)

    def records(
        self,
        where: Mapping[str, Any] | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[MemoryRecord]:
        """Return records in no order of meaning: all, those that match a filter, or a page of them.

        Raises CollectionNotFoundError and InvalidFilterError.
        """
        check_page(limit, offset)
        expression = self._expression(where)
        store = self._table.find_to_read()
        if store is None or limit == 0:  # which LanceDB takes for no limit
            return []
        return store.records(expression, limit, offset)

    # -- lifecycle ------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the files; what is stored stays. Again is fine."""
        self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- inside ---------------------------------------------------------------------------------

    def _ids(self, ids: Any) -> list[str]:
        try:
            return checked_strings("id", ids)
        except UnusableValueError as error:
            raise InvalidRecordError(self.name, error.problem, error.hint) from error

    def _query_vector(self, query: str | Sequence[float]) -> Vectors:
        if isinstance(query, str):
            vectors = self._needed_embedder().embed_query(self._table.find(), query)
        else:
            vectors = self._given_vectors([query], None)
        self._check_dim(vectors)
        return vectors

    def _given_vectors(self, given: Any, count: int | None) -> Vectors:
        try:
            return to_array(given, count)
        except UnusableValueError as error:
            raise InvalidRecordError(self.name, error.problem, error.hint) from error

    def _needed_embedder(self) -> CollectionEmbedder:
        if self._embedder is None:
            raise ValueError(
                f"collection {self.name!r} was opened without an embedder: pass embedder= to it, "
                f"or vectors in place of texts"
            )
        return self._embedder

    def _expression(self, where: Mapping[str, Any] | None) -> str | None:
        if where is None:
            return None
        try:
            return filter_expression(where, self.fields)
        except UnusableValueError as error:
            raise InvalidFilterError(self.name, error.problem, error.hint) from error

    def _check_dim(self, vectors: Vectors) -> None:
        stored, given = self.dim, vectors.shape[1]
        if stored is not None and stored != given:
            raise DimensionMismatchError(self.name, stored, given)
