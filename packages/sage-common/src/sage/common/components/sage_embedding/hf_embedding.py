"""HFEmbedding: models of sentence-transformers. The only module that imports it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from sage.common.components.sage_embedding.embedding_model import EmbeddingModel
from sage.common.core.errors import PackageNotInstalledError


class HFEmbedding(EmbeddingModel):
    """Embeds with a sentence-transformers model in this process.

    Args:
        model: a folder, or a model's id on the Hugging Face hub, which is downloaded.
        device: such as ``"cpu"`` or ``"cuda"``; None takes the best there is.
        normalize: scale each vector to length 1.
        batch_size: texts per pass through the model.

    Raises PackageNotInstalledError, and OSError for a model that is not there.
    """

    method_name: ClassVar[str] = "hf"

    def __init__(
        self,
        *,
        model: str | Path,
        device: str | None = None,
        normalize: bool = True,
        batch_size: int = 32,
    ) -> None:
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise PackageNotInstalledError(
                "sentence-transformers", "isage-common[hf]", str(error)
            ) from error
        if not sys.stderr.isatty():  # the bar for loading weights is for terminals
            disable_progress_bar()
        self._model: Any = SentenceTransformer(str(model), device=device)
        self._model_id = str(model)
        self._normalize = normalize
        self._batch_size = batch_size
        self._lock = threading.Lock()  # a tokenizer of Hugging Face serves one thread at a time

    @property
    def identity(self) -> str:
        """The model, and its commit if it came from the hub."""
        config = getattr(getattr(self._model[0], "auto_model", None), "config", None)
        commit = getattr(config, "_commit_hash", None)
        return f"hf {self._model_id}" + (f"@{commit}" if commit else "")

    @property
    def prompts(self) -> Mapping[str, str]:
        """The model's own; none if one of them is its default, which stands before all texts."""
        model = self._model
        return {} if model.default_prompt_name else dict(model.prompts)

    def _embed(self, texts: list[str]) -> list[list[float]]:
        model = self._model
        with self._lock:
            array = model.encode(
                texts,
                batch_size=self._batch_size,
                normalize_embeddings=self._normalize,
                show_progress_bar=False,
            )
        vectors: list[list[float]] = array.tolist()
        return vectors

    def _release(self) -> None:
        self._model = None
