"""Embedder: whatever turns texts into vectors, asked in batches, its answers checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.common.components.sage_embedding import EmbeddingModel, get_embedding_model
from sage.common.components.sage_vllm import VLLMService
from sage.middleware.components.memory.errors import UnusableValueError

Vectors = NDArray[np.float32]


class Embedder:
    """Calls what it was given to embed.

    That is something with ``embed_batch`` (what EmbeddingFactory makes), with ``embed`` (a
    VLLMService), or a callable that takes a list of texts.
    """

    def __init__(self, given: Any, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._given = _model_of(given)
        self._embed = _function(self._given)
        self._batch_size = batch_size

    @property
    def identity(self) -> str:
        """What makes the vectors, as far as it says so."""
        if isinstance(self._given, EmbeddingModel):
            return self._given.identity
        named = self._given if hasattr(self._given, "__qualname__") else type(self._given)
        return f"{named.__module__}.{named.__qualname__}"

    @property
    def prompts(self) -> Mapping[str, str]:
        """What the model wants before a text, by kind: ``query`` and ``document``."""
        return self._given.prompts if isinstance(self._given, EmbeddingModel) else {}

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return an array of one row per text; raises ValueError for an answer that is none."""
        parts = [
            self._batch(list(texts[start : start + self._batch_size]))
            for start in range(0, len(texts), self._batch_size)
        ]
        lengths = sorted({part.shape[1] for part in parts})
        if len(lengths) > 1:
            raise ValueError(f"the embedder gave vectors of different lengths: {lengths}")
        return np.concatenate(parts)

    def _batch(self, texts: list[str]) -> Vectors:
        answer = self._embed(texts)
        return to_array(answer["vectors"] if isinstance(answer, dict) else answer, len(texts))


def to_array(vectors: Any, count: int | None) -> Vectors:
    """Return vectors as an array of one row each.

    Raises UnusableValueError for what are no vectors, or not as many as ``count``.
    """
    try:
        array = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UnusableValueError(
            f"vectors must be lists of numbers of one length ({error})"
        ) from error
    if array.ndim != 2 or not array.shape[1]:
        raise UnusableValueError(
            f"vectors must be a list of lists of numbers, not of shape {array.shape}"
        )
    if count is not None and len(array) != count:
        raise UnusableValueError(f"there are {len(array)} vectors for {count} texts")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1) | ~array.any(axis=1))
    if len(bad):
        raise UnusableValueError(
            f"vector {bad[0]} has no direction: it is all zeros, or a number in it is not finite"
        )
    return array


def _model_of(given: Any) -> Any:
    """Return a VLLMService as the embedding model that it is, anything else as it is."""
    if not isinstance(given, VLLMService):
        return given

    def call_service(_name: str, *args: Any, method: str, timeout: Any, **options: Any) -> Any:
        del timeout
        return getattr(given, method)(*args, **options)

    return get_embedding_model("vllm", call_service=call_service)


def _function(given: Any) -> Callable[[list[str]], Any]:
    for name in ("embed_batch", "embed"):
        method = getattr(given, name, None)
        if callable(method):
            function: Callable[[list[str]], Any] = method
            return function
    if not callable(given):
        raise TypeError(
            f"an embedder has embed_batch() or embed(), or takes a list of texts; {given!r} does "
            f"neither"
        )
    return given  # type: ignore[no-any-return]  # anything callable, checked by its answers
