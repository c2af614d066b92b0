"""VDBMemoryService: a collection as a service that pipelines call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sage.common.components.sage_embedding import EmbeddingModel, get_embedding_model
from sage.common.core.errors import nearest
from sage.common.service import BaseService, ServiceClosedError
from sage.middleware.components.memory.collection import VDBMemoryCollection
from sage.middleware.components.memory.records import MemoryRecord, SearchHit
from sage.middleware.components.memory.search_mode import SearchMode
from sage.middleware.components.memory.service_config import VDBMemoryServiceConfig


class VDBMemoryService(BaseService):
    """The methods of a VDBMemoryCollection, for ``call_service``; thread-safe.

    ``embedder`` is anything that the collection takes, instead of the configuration's
    ``embedding`` or ``embedding_service``; it stays the caller's to close::

        hits = self.call_service("memory", "a question", method="search", k=3)
    """

    max_concurrency = None

    def __init__(
        self, config: VDBMemoryServiceConfig | Mapping[str, Any], *, embedder: Any = None
    ) -> None:
        if not isinstance(config, VDBMemoryServiceConfig):
            config = VDBMemoryServiceConfig.from_dict(config)
        if embedder is not None and (config.embedding or config.embedding_service):
            raise ValueError("give either embedder= or the configuration's embedding, not both")
        self.config = config
        self._embedder = embedder
        self._own_embedding: EmbeddingModel | None = None
        self._opened_collection: VDBMemoryCollection | None = None

    # -- lifecycle ------------------------------------------------------------------------------

    def setup(self) -> None:
        """Make the embedding model and open the collection; raises as both do."""
        config = self.config
        if config.embedding_service is not None:
            self._own_embedding = get_embedding_model(
                "vllm", call_service=self, service_name=config.embedding_service
            )
        elif config.embedding is not None:
            self._own_embedding = get_embedding_model(**config.embedding)
        self._opened_collection = VDBMemoryCollection(
            config.folder,
            config.name,
            embedder=self._own_embedding or self._embedder,
            query_prefix=config.query_prefix,
            document_prefix=config.document_prefix,
            fields=config.fields,
            language=config.language,
            batch_size=config.batch_size,
            create=config.create,
        )

    def cleanup(self) -> None:
        """Let go of the files and of the embedding model."""
        if self._opened_collection is not None:
            self._opened_collection.close()
        if self._own_embedding is not None:
            self._own_embedding.close()

    # -- tasks: see VDBMemoryCollection -----------------------------------------------------------

    def insert(self, text: str, metadata: Mapping[str, Any] | None = None, **options: Any) -> str:
        """Store a text and return its id; options are ``record_id`` and ``vector``."""
        return self._collection.insert(text, metadata, **options)

    def insert_batch(
        self,
        texts: Sequence[str],
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        **options: Any,
    ) -> list[str]:
        """Store texts, all or none, and return their ids; options are ``ids`` and ``vectors``."""
        return self._collection.insert_batch(texts, metadata, **options)

    def upsert(
        self, record_id: str, text: str, metadata: Mapping[str, Any] | None = None, **options: Any
    ) -> str:
        """Store a text in place of what has its id; the option is ``vector``."""
        return self._collection.upsert(record_id, text, metadata, **options)

    def upsert_batch(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        **options: Any,
    ) -> list[str]:
        """Store texts in place of what has their ids; the option is ``vectors``."""
        return self._collection.upsert_batch(ids, texts, metadata, **options)

    def update_metadata(self, ids: str | Sequence[str], changes: Mapping[str, Any]) -> int:
        """Change metadata of stored texts, and return how many of the ids there were."""
        return self._collection.update_metadata(ids, changes)

    def delete(
        self, ids: str | Sequence[str] | None = None, *, where: Mapping[str, Any] | None = None
    ) -> int:
        """Delete by ids or by a filter, and return how many there were."""
        return self._collection.delete(ids, where=where)

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

        ``rerank`` may also be the name of a service of the environment that scores.
        """
        if isinstance(rerank, str):
            rerank = partial(self.call_service, rerank, method="score")
        return self._collection.search(
            query, k, where=where, mode=mode, rerank=rerank, candidates=candidates
        )

    def get(self, record_id: str) -> MemoryRecord | None:
        """Return the record with this id, None if there is none."""
        return self._collection.get(record_id)

    def get_batch(self, ids: Sequence[str]) -> list[MemoryRecord | None]:
        """Return a record per id, None where there is none."""
        return self._collection.get_batch(ids)

    def records(self, where: Mapping[str, Any] | None = None, **options: Any) -> list[MemoryRecord]:
        """Return records, all or those that match a filter; options are ``limit``, ``offset``."""
        return self._collection.records(where, **options)

    def count(self, where: Mapping[str, Any] | None = None) -> int:
        """Return how many records there are, or match a filter."""
        return self._collection.count(where)

    def optimize(self) -> None:
        """Bring many small files together and index new texts."""
        self._collection.optimize()

    # -- the generic entry point ------------------------------------------------------------------

    def process(self, payload: Mapping[str, Any]) -> Any:
        """Run ``{"task": ..., "inputs": ..., "options": {...}}`` and return the task's result.

        Tasks are the methods above; ``inputs`` is their first argument, ``options`` the others.
        Raises ValueError for an unknown task, naming the nearest one.
        """
        if not isinstance(payload, Mapping) or not set(payload) <= {"task", "inputs", "options"}:
            raise ValueError(
                f"the payload must be {{'task': ..., 'inputs': ..., 'options': {{...}}}}, "
                f"not {payload!r}"
            )
        methods: list[Callable[..., Any]] = [
            self.insert, self.insert_batch, self.upsert, self.upsert_batch,
            self.update_metadata, self.delete, self.search, self.get, self.get_batch, self.records,
            self.count, self.optimize,
        ]  # fmt: skip
        tasks = {method.__name__: method for method in methods}
        task = payload.get("task")
        if task not in tasks:
            raise ValueError(f"unknown task {task!r}; {nearest(str(task), list(tasks))}")
        inputs = [payload["inputs"]] if "inputs" in payload else []
        return tasks[task](*inputs, **payload.get("options") or {})

    @property
    def _collection(self) -> VDBMemoryCollection:
        if self._opened_collection is None:
            raise ServiceClosedError(self.ctx.name, "it has not been opened yet")
        return self._opened_collection
