"""EmbeddingModel: what turns texts into vectors, whichever way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import ClassVar, Self

from sage.common.components.sage_vllm.requests.inputs import parse_texts


class EmbeddingModel(ABC):
    """Base of the embedding methods. All of them are thread-safe.

    A method says its name and how to embed a list of texts; one that holds something overrides
    ``_release`` too.
    """

    method_name: ClassVar[str]

    _closed = False

    @abstractmethod
    def _embed(self, texts: list[str]) -> list[list[float]]:
        """Return a vector per text; there is at least one text and none is empty."""

    def _release(self) -> None:  # noqa: B027 - most methods hold nothing
        """Free what the constructor acquired; called once."""

    @cached_property
    def dim(self) -> int:
        """The length of the vectors; where the method does not say, a word is embedded to see."""
        return len(self.embed("dimension"))

    @property
    def identity(self) -> str:
        """What makes the vectors: the method, the model, and its commit where they are known."""
        return self.method_name

    @property
    def prompts(self) -> Mapping[str, str]:
        """What the model was trained with before a text, by kind: ``query`` and ``document``.

        Nothing of it is added by ``embed``, which knows no kinds: a VDBMemoryCollection does. None
        are here of a model with a default prompt: that stands before all texts, of either kind.
        """
        return {}

    def embed(self, text: str) -> list[float]:
        """Return the vector of a text; raises as ``embed_batch``."""
        if not isinstance(text, str):
            raise ValueError(f"embed() takes one text, not {text!r}; embed_batch() takes a list")
        return self.embed_batch([text])[0]

    def embed_batch(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector per text, in their order; all have ``dim`` numbers.

        Raises ValueError for what is no text or an empty one, RuntimeError after ``close()``.
        """
        checked = parse_texts(texts)
        if self._closed:
            raise RuntimeError(f"this {self.method_name!r} embedding model has been closed")
        if not checked:
            return []
        vectors = self._embed(checked)
        if len(vectors) != len(checked):
            raise RuntimeError(
                f"the {self.method_name!r} embedding model gave {len(vectors)} vectors for "
                f"{len(checked)} texts"
            )
        return vectors

    def close(self) -> None:
        """Free what the model holds; again is fine."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
