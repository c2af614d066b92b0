"""VDBMemoryServiceConfig: everything that a VDBMemoryService can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from sage.common.core.errors import nearest
from sage.middleware.components.memory.lance.text_index import check_language
from sage.middleware.components.memory.metadata import check_fields


@dataclass(frozen=True, kw_only=True)
class VDBMemoryServiceConfig:
    """Configuration of a VDBMemoryService.

    - ``folder``, ``name``, ``query_prefix``, ``document_prefix``, ``fields``, ``language``,
      ``batch_size``, ``create``: of the VDBMemoryCollection.
    - ``embedding_service``: the name of a service of the same environment that embeds, such as
      ``"vllm_service"``.
    - ``embedding``: what ``get_embedding_model`` takes, such as ``{"method": "hash", "dim":
      256}``; the service makes the model and closes it.

    Neither of the two means that callers bring vectors, or that an embedder is handed over.
    """

    folder: str | Path
    name: str = "memory"
    query_prefix: str | None = None
    document_prefix: str | None = None
    fields: Mapping[str, Any] | None = None
    language: str | None = None
    embedding_service: str | None = None
    embedding: Mapping[str, Any] | None = None
    batch_size: int = 256
    create: bool | None = None

    def __post_init__(self) -> None:
        if self.fields is not None:
            check_fields(self.fields)
        if self.language is not None:
            check_language(self.language)
        if self.embedding is None:
            return
        if self.embedding_service is not None:
            raise ValueError("give either embedding or embedding_service, not both")
        if not isinstance(self.embedding, Mapping) or "method" not in self.embedding:
            raise ValueError(
                f"embedding must be a dict with a 'method', such as {{'method': 'hash'}}, not "
                f"{self.embedding!r}"
            )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """Make a configuration from a dict; raises ValueError for a key that is not known."""
        known = [field.name for field in fields(cls)]
        for key in config:
            if key not in known:
                raise ValueError(f"unknown configuration key {key!r}; {nearest(key, known)}")
        if "folder" not in config:
            raise ValueError("the configuration names no folder: add 'folder': 'path/to/memory'")
        return cls(**config)
