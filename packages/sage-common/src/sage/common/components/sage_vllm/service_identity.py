"""service_identity(): what the results of a service follow from, for runs with a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.model_registry import vllm_registry
from sage.common.model_registry.errors import ModelNotFoundError


def service_identity(config: VLLMServiceConfig) -> dict[str, Any]:
    """Return models, their commits and the sampling of a configuration, as JSON can hold them.

    A commit is None as long as the model is not in the registry.
    """
    text, embedding, scoring = config.model_id, config.embedding_model_id, config.scoring_model_id
    root = config.model_root
    named = {
        name: {
            "model": settings.model_id,
            "commit": _commit(settings.model_id, settings.revision, root),
            "sampling": dict(settings.sampling),
        }
        for name, settings in config.entries().items()
        if name in config.models
    }
    return {
        "model": text or "no text model",
        "commit": _commit(text, config.revision, root),
        "embedding model": embedding or "the text model",
        "embedding commit": _commit(embedding, config.embedding_revision, root),
        "sampling": dict(config.sampling),
        **_scoring(scoring, config.scoring_revision, root),
        **({"models": named} if named else {}),
    }


def _scoring(model_id: str | None, revision: str | None, root: Path | None) -> dict[str, Any]:
    if model_id is None:
        return {}
    return {"scoring model": model_id, "scoring commit": _commit(model_id, revision, root)}


def _commit(model_id: str | None, revision: str | None, root: Path | None) -> str | None:
    if model_id is None:
        return None
    try:
        return vllm_registry.get_model(model_id, revision, root=root).commit
    except ModelNotFoundError:  # to be downloaded when the service opens, or missed then
        return None
