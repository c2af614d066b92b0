"""HashEmbedding: vectors from hashed words, without a model."""

from __future__ import annotations

import math
import re
from hashlib import blake2b
from typing import ClassVar

from sage.common.components.sage_embedding.embedding_model import EmbeddingModel

_WORD = re.compile(r"\w+")


class HashEmbedding(EmbeddingModel):
    """Adds up a signed unit per word (the hashing trick) and scales the sum to length 1.

    Texts are near each other as far as they share words. The same text gives the same vector in
    every process and on every machine, so it suits tests, examples and exact retrieval; it knows
    no meaning.
    """

    method_name: ClassVar[str] = "hash"

    def __init__(self, *, dim: int = 256) -> None:
        if dim < 1:
            raise ValueError(f"dim must be at least 1, not {dim}")
        self.dim = dim

    def _embed(self, texts: list[str]) -> list[list[float]]:
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * self.dim
        for word in _WORD.findall(text.casefold()):
            place, sign = self._place(word)
            vector[place] += sign
        length = math.sqrt(sum(x * x for x in vector))
        if not length:  # no words at all, or words that cancel each other out
            place, sign = self._place(text)
            vector[place], length = sign, 1.0
        return [x / length for x in vector]

    def _place(self, word: str) -> tuple[int, float]:
        # Python's own hash() of a string differs from process to process.
        digest = blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest()
        number = int.from_bytes(digest, "little")
        return (number >> 1) % self.dim, 1.0 if number & 1 else -1.0
