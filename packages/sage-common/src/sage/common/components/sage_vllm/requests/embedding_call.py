"""EmbeddingCall: a call of ``embed``, ready to be started on the engine that serves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future

from sage.common.components.sage_vllm.engine_contract import Embedding, Engine
from sage.common.components.sage_vllm.requests.gather import gather, then
from sage.common.components.sage_vllm.requests.result_types import EmbedResult
from sage.common.components.sage_vllm.requests.results import embedding_result
from sage.common.components.sage_vllm.requests.unicode import check_unicode


class EmbeddingCall:
    """Starts its texts on an engine, all or none; a slot may start it later than it was made.

    Raises ValueError for a text with half a character, which has no tokens.
    """

    def __init__(self, texts: Sequence[str], *, normalize: bool, dimensions: int | None) -> None:
        for index, text in enumerate(texts):
            check_unicode(text, f"text {index}")
        self._texts = texts
        self._normalize = normalize
        self._dimensions = dimensions
        self._began = time.perf_counter()

    def __call__(self, engine: Engine) -> Future[EmbedResult]:
        """Submit the texts; return a Future of the dict that VLLMService.embed describes."""

        def combine(embeddings: Sequence[Embedding]) -> EmbedResult:
            latency = time.perf_counter() - self._began
            return embedding_result(engine.info.model_id, embeddings, latency)

        if len(self._texts) == 1:
            return then(self._submit(engine, self._texts[0]), lambda only: combine([only]))
        return gather((self._submit(engine, text) for text in self._texts), combine)

    def _submit(self, engine: Engine, text: str) -> Future[Embedding]:
        return engine.embed(text, normalize=self._normalize, dimensions=self._dimensions)
