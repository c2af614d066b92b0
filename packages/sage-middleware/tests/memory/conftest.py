from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sage.common.components.sage_embedding import EmbeddingModel, get_embedding_model
from sage.middleware.components.memory import VDBMemoryCollection


@pytest.fixture
def embedder() -> EmbeddingModel:
    """An embedder without a model: texts are near as far as they share words."""
    return get_embedding_model("hash", dim=64)


@pytest.fixture
def notes(tmp_path: Path, embedder: EmbeddingModel) -> Iterator[VDBMemoryCollection]:
    """An empty collection with a field of each type."""
    fields = {"year": int, "source": str, "weight": float, "draft": bool}
    with VDBMemoryCollection(tmp_path, "notes", embedder=embedder, fields=fields) as collection:
        yield collection
