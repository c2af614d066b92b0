"""VDBMemoryCollection: texts with metadata on disk, searched by vector, by words, or by both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage.middleware.components.memory.embedding.collection_embedder import CollectionEmbedder
from sage.middleware.components.memory.embedding.embedder import Vectors
from sage.middleware.components.memory.errors import DuplicateIdError, InvalidRecordError
from sage.middleware.components.memory.lance.filters import ids_expression
from sage.middleware.components.memory.readable_collection import ReadableCollection
from sage.middleware.components.memory.rows import Rows, one


class VDBMemoryCollection(ReadableCollection):
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

    def insert(
        self,
        text: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        record_id: str | None = None,
        vector: Sequence[float] | None = None,
    ) -> str:
        """Store a text and return its id; as ``insert_batch``."""
        ids = one(record_id)
        return self.insert_batch([text], [metadata], ids=ids, vectors=one(vector))[0]

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
        return self.upsert_batch([record_id], [text], [metadata], vectors=one(vector))[0]

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

    def update_metadata(self, ids: str | Sequence[str], changes: Mapping[str, Any]) -> int:
        """Change metadata of stored texts, and return how many of the ids there were.

        What ``changes`` has replaces what is there, None takes it away; all else of a record stays,
        the vector too, so nothing is embedded. Raises CollectionNotFoundError, InvalidRecordError.
        """
        listed = self._ids([ids] if isinstance(ids, str) else ids)
        if not isinstance(changes, Mapping):
            raise InvalidRecordError(self.name, f"changes are a dict of metadata, not {changes!r}")
        if self._table.find_to_read() is None:
            return 0
        with self._table.locked():
            store = self._table.find_to_read()
            if store is None:
                return 0
            old, vectors = store.get_with_vectors(list(dict.fromkeys(listed)))
            metadata = [{**record.metadata, **changes} for record in old]
            if old:
                texts, known = [record.text for record in old], [record.id for record in old]
                store.replace(self._rows(texts, metadata, known), vectors)
        return len(old)

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

    def _rows(self, texts: Any, metadata: Any, ids: Any) -> Rows:
        return Rows.checked(self.name, self.fields, texts=texts, metadata=metadata, ids=ids)

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
