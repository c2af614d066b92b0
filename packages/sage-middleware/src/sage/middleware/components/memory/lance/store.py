"""LanceStore: one table of LanceDB. The only module that imports lancedb, and here pyarrow.

Columns: ``id``, ``text``, ``metadata`` (JSON of all of it), ``vector``, and one typed column per
declared field. Rows are written in one commit per call, so all of a call's rows are there or
none; what was returned survives the process. The language of the texts is metadata of the column
``text``, what is remembered of the embedder is metadata of the column ``vector``.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np

from sage.middleware.components.memory.embedding.embedder import Vectors
from sage.middleware.components.memory.errors import MemoryStorageError
from sage.middleware.components.memory.lance.filters import column, ids_expression
from sage.middleware.components.memory.lance.text_index import (
    DEFAULT_LANGUAGE,
    index_options,
    split_query,
)
from sage.middleware.components.memory.metadata import FieldType
from sage.middleware.components.memory.records import MemoryRecord, SearchHit
from sage.middleware.components.memory.rows import Rows
from sage.middleware.components.memory.search_mode import SearchMode

logger = logging.getLogger(__name__)

_RECORD = ["id", "text", "metadata"]
_SCORES = {"vector": "_distance", "text": "_score", "hybrid": "_relevance_score"}
_HYBRID_CANDIDATES = 50  # of each kind: among too few, none is ranked by both
_MAX_IDS = 1000  # in one expression
# Each commit adds a file; searches slow down as they add up, and rewriting them costs more the
# more rows there are.
_COMMITS_BEFORE_COMPACTION = 100
_ROWS_PER_COMMIT = 100
# A search in another process may still read what a compaction has replaced.
_KEEP_REPLACED = timedelta(minutes=1)
_LANGUAGE = "sage:language"
_EMBEDDER = "sage:embedder"
# Where in LanceDB's own source an error arose, which says nothing to whoever reads it.
_SOURCE = re.compile(r",? ?(?:location: )?(?:/[^\s,]*|[\w./-]+)\.rs:\d+:\d+")


class LanceStore:
    """Reads are safe from any number of threads and processes; writers take turns elsewhere."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self._name: str = table.name
        schema = table.schema
        self.dim: int = schema.field("vector").type.list_size
        self.fields = {
            field.name.removeprefix(column("")): _python_type(field.type)
            for field in schema
            if field.name.startswith(column(""))
        }
        self.language = _remembered(schema, "text", _LANGUAGE) or DEFAULT_LANGUAGE
        self._commits: int = table.stats()["fragment_stats"]["num_small_fragments"]

    @classmethod
    def open(cls, folder: Path, name: str) -> Self | None:
        """Return the table, None if there is none."""
        if name not in collection_names(folder):
            return None
        with _storage_errors(name, "open"):
            return cls(_connect(folder).open_table(name))

    @classmethod
    def create(
        cls, folder: Path, name: str, dim: int, fields: Mapping[str, FieldType], language: str
    ) -> Self:
        """Make an empty table; there must be none."""
        schema = _schema(dim, fields)
        text = schema.field("text").with_metadata({_LANGUAGE: language})
        schema = schema.set(schema.get_field_index("text"), text)
        with _storage_errors(name, "make"):
            return cls(_connect(folder).create_table(name, schema=schema))

    # -- writing: one caller at a time ----------------------------------------------------------

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """Append rows, whose ids must be new."""
        with self._errors("write to"):
            self._table.add(self._arrow(rows, vectors))
        self._committed()

    def replace(self, rows: Rows, vectors: Vectors) -> None:
        """Write rows in place of those with the same ids, and append the others."""
        with self._errors("write to"):
            merge = self._table.merge_insert("id").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(self._arrow(rows, vectors))
        self._committed()

    def delete(self, expression: str) -> int:
        """Delete rows; return how many."""
        with self._errors("delete from"):
            deleted: int = self._table.delete(expression).num_deleted_rows
        if deleted:
            self._committed()
        return deleted

    def compact(self) -> None:
        """Bring the rows together in few files and the text index, if any, up to date."""
        with self._errors("compact"):
            self._table.optimize(cleanup_older_than=_KEEP_REPLACED)
        self._commits = 0

    def index_text(self) -> None:
        """Make the index for text searches, unless there is one of this language."""
        from lancedb.index import FTS

        if not self.text_indexed:
            with self._errors("index"):
                self._table.create_index("text", config=FTS(**index_options(self.language)))

    def remember_embedder(self, record: str) -> None:
        """Keep a record of the embedder with the table."""
        with self._errors("write to"):
            self._table.update_field_metadata({"path": "vector", "metadata": {_EMBEDDER: record}})

    # -- reading --------------------------------------------------------------------------------

    @property
    def embedder(self) -> str | None:
        """The record of the embedder, None as long as there is none."""
        with self._errors("read"):
            return _remembered(self._table.schema, "vector", _EMBEDDER)

    @property
    def text_indexed(self) -> bool:
        """Whether text searches are possible."""
        with self._errors("search"):
            indices = self._table.list_indices()
        wanted = index_options(self.language).items()
        details = [index.index_details for index in indices]
        return any(all(one.get(k) == v for k, v in wanted) for one in details)

    def count(self, expression: str | None) -> int:
        """Return how many rows match."""
        with self._errors("count"):
            count: int = self._table.count_rows(expression)
        return count

    def known(self, ids: Sequence[str]) -> set[str]:
        """Return those of the ids that are there."""
        return {row["id"] for row in self._by_ids(ids, ["id"])}

    def get(self, ids: Sequence[str]) -> dict[str, MemoryRecord]:
        """Return the records of those of the ids that are there."""
        return {row["id"]: _record(row) for row in self._by_ids(ids, _RECORD)}

    def get_with_vectors(self, ids: Sequence[str]) -> tuple[list[MemoryRecord], Vectors]:
        """Return the records of those of the ids that are there, and a row each of vectors."""
        rows = list(self._by_ids(ids, [*_RECORD, "vector"]))
        vectors = np.array([row["vector"] for row in rows], dtype=np.float32)
        return [_record(row) for row in rows], vectors

    def records(self, expression: str | None, limit: int | None, offset: int) -> list[MemoryRecord]:
        """Return a page of the rows that match."""
        with self._errors("read"):
            query = self._table.search().select(_RECORD)
            if expression is not None:
                query = query.where(expression)
            rows = query.limit(limit).offset(offset).to_arrow().to_pylist()
        return [_record(row) for row in rows]

    def search(
        self, mode: SearchMode, k: int, expression: str | None, *, vector: Any, text: str | None
    ) -> list[SearchHit]:
        """Return the k best rows, best first; ``text`` and ``vector`` as the mode needs them."""
        with self._errors("search"):
            words = None if text is None or mode == "vector" else _text_query(text)
            if mode == "text":
                query = self._table.search(words, query_type="fts")
            elif mode == "vector":
                query = self._table.search(vector)
            else:
                query = self._table.search(query_type="hybrid").vector(vector).text(words)
            if mode != "text":
                query = query.distance_type("cosine")
            if mode != "hybrid":  # which adds its scores itself
                query = query.select([*_RECORD, _SCORES[mode]])
            if expression is not None:
                query = query.where(expression, prefilter=True)
            limit = max(k, _HYBRID_CANDIDATES) if mode == "hybrid" else k
            rows = query.limit(limit).to_arrow().to_pylist()
        return [_hit(row, row[_SCORES[mode]], mode) for row in rows[:k]]

    # -- inside ---------------------------------------------------------------------------------

    def _errors(self, doing: str) -> AbstractContextManager[None]:
        return _storage_errors(self._name, doing)

    def _by_ids(self, ids: Sequence[str], columns: list[str]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(ids), _MAX_IDS):
            expression = ids_expression(list(ids[start : start + _MAX_IDS]))
            with self._errors("read"):
                query = self._table.search().where(expression).select(columns).limit(_MAX_IDS)
                rows = query.to_arrow().to_pylist()
            yield from rows

    def _committed(self) -> None:
        self._commits += 1
        if self._commits >= _COMMITS_BEFORE_COMPACTION and self._commits >= (
            self.count(None) // _ROWS_PER_COMMIT
        ):
            try:
                self.compact()
            except MemoryStorageError:  # the rows are stored, and a later call tries again
                logger.warning("could not compact %s", self._name, exc_info=True)

    def _arrow(self, rows: Rows, vectors: Vectors) -> Any:
        import pyarrow as pa

        schema = _schema(self.dim, self.fields)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.dim)
        declared = [[m.get(field) for m in rows.metadata] for field in self.fields]
        columns = [rows.ids, rows.texts, [json.dumps(m) for m in rows.metadata], *declared]
        arrays = [pa.array(c, schema.types[i]) for i, c in enumerate(columns)]
        return pa.Table.from_arrays([*arrays, lists], schema=schema)


def collection_names(folder: Path) -> list[str]:
    """Return the names of the collections in a folder, without opening any."""
    # A table is there once its first version is; a writer that is killed before leaves a folder.
    return sorted(path.stem for path in folder.glob("*.lance") if any(path.glob("_versions/*")))


@contextmanager
def _storage_errors(name: str, doing: str) -> Iterator[None]:
    """Raise whatever LanceDB raises, which has no types of its own, as MemoryStorageError."""
    try:
        yield
    except Exception as error:
        reason = _SOURCE.sub("", str(error).strip() or type(error).__name__)
        raise MemoryStorageError(name, doing, reason) from error


def _connect(folder: Path) -> Any:
    import lancedb

    # Without an interval, a table never sees what other processes write.
    return lancedb.connect(folder, read_consistency_interval=timedelta(0))


def _schema(dim: int, fields: Mapping[str, FieldType]) -> Any:
    import pyarrow as pa

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("metadata", pa.string(), nullable=False),
            *(pa.field(column(name), types[type_]) for name, type_ in fields.items()),
            pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
        ]
    )


def _text_query(text: str) -> Any:
    """Return the query for a text: any of its words, and all of its quoted phrases."""
    from lancedb import query

    lance: Any = query  # what its dataclasses take is not what their signatures say
    phrases, words = split_query(text)
    if not phrases:
        return lance.MatchQuery(words, "text")
    clauses = [(lance.Occur.MUST, lance.PhraseQuery(phrase, "text")) for phrase in phrases]
    if words.strip():
        clauses.append((lance.Occur.SHOULD, lance.MatchQuery(words, "text")))
    return lance.BooleanQuery(clauses)


def _remembered(schema: Any, column_name: str, key: str) -> str | None:
    value: bytes | None = (schema.field(column_name).metadata or {}).get(key.encode())
    return None if value is None else value.decode()


def _python_type(arrow_type: Any) -> FieldType:
    types: dict[str, FieldType] = {"string": str, "int64": int, "double": float, "bool": bool}
    return types[str(arrow_type)]


def _record(row: Mapping[str, Any]) -> MemoryRecord:
    return MemoryRecord(id=row["id"], text=row["text"], metadata=json.loads(row["metadata"]))


def _hit(row: Mapping[str, Any], score: float, mode: SearchMode) -> SearchHit:
    if mode == "vector":
        score = 1 - score  # LanceDB gives the cosine distance
    return SearchHit(
        id=row["id"], text=row["text"], metadata=json.loads(row["metadata"]), score=score
    )
