"""VDBMemoryCollection: texts with metadata on disk, searched by vector, by words, or by both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sage.middleware.components.memory.collection_embedder import CollectionEmbedder
from sage.middleware.components.memory.collection_table import CollectionTable
from sage.middleware.components.memory.embedder import Vectors, to_array
from sage.middleware.components.memory.errors import (
    DimensionMismatchError,
    DuplicateIdError,
    InvalidFilterError,
    InvalidRecordError,
)
from sage.middleware.components.memory.lance.filters import filter_expression, ids_expression
from sage.middleware.components.memory.lance.text_index import check_language
from sage.middleware.components.memory.metadata import FieldType, check_fields
from sage.middleware.components.memory.records import MemoryRecord, SearchHit
from sage.middleware.components.memory.rows import Rows, checked_strings
from sage.middleware.components.memory.search_mode import SearchMode, check_query

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


class VDBMemoryCollection:
    """A named collection in a folder, on LanceDB. Safe for threads and for several processes.

    It is opened if it exists, else made by the first insert, which sets the length of its
    vectors. A call that returned is on disk; a call that raised changed nothing. Use it as a
    context manager, or call ``close()``.

    Args:
        folder: where collections live; each is a sub-folder.
        name: letters, digits, ``_`` and ``-``.
        embedder: what makes vectors of texts: a product of ``EmbeddingFactory``, a VLLMService,
            or a callable that takes a list of texts; a tuple of two has one for documents and one
            for queries. It stays the caller's to close. None for callers that bring their own
            vectors. A collection refuses another one than it was filled with.
        query_prefix, document_prefix: what the embedder is given before a query and before a text
            to store, such as ``"query: "`` and ``"passage: "`` for e5. None means what the
            collection was filled with, else the model's own prompts ``query`` and ``document``.
        fields: the metadata that filters can use, such as ``{"year": int, "source": str}``; other
            metadata is kept too. For a collection that exists None means what it has.
        language: of the texts, for searches by words: ``"english"`` if it is not given, another
            one that has stems, such as ``"german"``, or ``"none"`` for whole words alone. Chinese,
            Japanese and Thai are found by their words with any of them. For a collection that
            exists None means what it has.
        batch_size: how many texts the embedder gets at a time.
        create: with None, the default, the first insert makes the collection, and to read one
            that is not there raises CollectionNotFoundError; True takes it for an empty one; with
            False it must be there now.
    """

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
        self.folder = Path(folder)
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

    # -- writing --------------------------------------------------------------------------------

    def insert(
        self,
        text: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        record_id: str | None = None,
        vector: Sequence[float] | None = None,
    ) -> str:
        """Store a text and return its id; as ``insert_batch``."""
        ids = _one(record_id)
        return self.insert_batch([text], [metadata], ids=ids, vectors=_one(vector))[0]

    def insert_batch(
        self,
        texts: Sequence[str],
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        ids: Sequence[str] | None = None,
        vectors: Any = None,
    ) -> list[str]:
        """Store texts, all or none, and return their ids.

        Args:
            texts: what to find again.
            metadata: a flat dict per text of str, int, float, bool, or a list of str, NumPy's
                too; None means not given.
            ids: one per text, new to the collection; None makes some.
            vectors: one per text, in place of the embedder's.

        Raises:
            InvalidRecordError, DuplicateIdError, DimensionMismatchError: nothing was stored.
        """
        rows = self._rows(texts, metadata, ids)
        if not rows.ids:
            return []
        array, maker = self._vectors(rows.texts, vectors)
        with self._table.writing(array.shape[1]) as store:
            self._check_dim(array)
            if maker is not None:
                maker.remember(store, rows.texts, array)
            # Ids made here are new: they are random numbers of 122 bits.
            taken = store.known(rows.ids) if ids is not None else set()
            if taken:
                raise DuplicateIdError(self.name, sorted(taken))
            store.add(rows, array)
        return list(rows.ids)

    def upsert(
        self,
        record_id: str,
        text: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        vector: Sequence[float] | None = None,
    ) -> str:
        """Store a text in place of what has its id, if anything; as ``insert_batch``."""
        return self.upsert_batch([record_id], [text], [metadata], vectors=_one(vector))[0]

    def upsert_batch(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        vectors: Any = None,
    ) -> list[str]:
        """Store texts in place of what has their ids; all or none, and all of a record anew."""
        rows = self._rows(texts, metadata, ids)
        if not rows.ids:
            return []
        array, maker = self._vectors(rows.texts, vectors)
        with self._table.writing(array.shape[1]) as store:
            self._check_dim(array)
            if maker is not None:
                maker.remember(store, rows.texts, array)
            store.replace(rows, array)
        return list(rows.ids)

    def delete(
        self, ids: str | Sequence[str] | None = None, *, where: Mapping[str, Any] | None = None
    ) -> int:
        """Delete by ids or by a filter, and return how many there were.

        Raises InvalidFilterError, and ValueError unless exactly one is given.
        """
        if (ids is None) == (not where):
            raise ValueError("delete() takes either ids or a filter that has a condition")
        if ids is not None:
            listed = self._ids([ids] if isinstance(ids, str) else ids)
            expression = ids_expression(listed) if listed else None
        else:
            expression = self._expression(where)
        store = self._table.find_to_read()
        if expression is None or store is None:
            return 0
        with self._table.locked():
            return store.delete(expression)

    def optimize(self) -> None:
        """Bring many small files together and index new texts; inserts do it now and then."""
        store = self._table.find_to_read()
        if store is not None:
            with self._table.locked():
                store.compact()

    # -- reading --------------------------------------------------------------------------------

    def search(
        self,
        query: str | Sequence[float],
        k: int = 5,
        *,
        where: Mapping[str, Any] | None = None,
        mode: SearchMode = "vector",
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

        Raises:
            CollectionNotFoundError, InvalidFilterError, InvalidRecordError,
            DimensionMismatchError.
        """
        check_query(query, k, mode)
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

    def _rows(self, texts: Any, metadata: Any, ids: Any) -> Rows:
        return Rows.checked(self.name, self.fields, texts=texts, metadata=metadata, ids=ids)

    def _ids(self, ids: Any) -> list[str]:
        try:
            return checked_strings("id", ids)
        except ValueError as error:
            raise InvalidRecordError(self.name, str(error)) from error

    def _vectors(
        self, texts: Sequence[str], given: Any
    ) -> tuple[Vectors, CollectionEmbedder | None]:
        """Return the vectors of texts to store and what made them, None if they were given."""
        maker = self._needed_embedder() if given is None else None
        if maker is not None:
            vectors = maker.embed_documents(self._table.find(), texts)
        else:
            vectors = self._given_vectors(given, len(texts))
        self._check_dim(vectors)
        return vectors, maker

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
        except ValueError as error:
            raise InvalidRecordError(self.name, str(error)) from error

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
        except ValueError as error:
            raise InvalidFilterError(self.name, str(error)) from error

    def _check_dim(self, vectors: Vectors) -> None:
        stored, given = self.dim, vectors.shape[1]
        if stored is not None and stored != given:
            raise DimensionMismatchError(self.name, stored, given)


def _one(value: Any) -> list[Any] | None:
    return None if value is None else [value]
