"""EmbeddingCall: a call of ``embed``, ready to be started on the engine that serves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.cache.result_cache import ResultCache
from sage.common.components.sage_vllm.engine_contract import Embedding, Engine
from sage.common.components.sage_vllm.requests.gather import attempt, gather, then
from sage.common.components.sage_vllm.requests.result_types import EmbedResult
from sage.common.components.sage_vllm.requests.results import (
    embedding_errors,
    embedding_result,
)
from sage.common.components.sage_vllm.requests.sampling_options import check_embedding_options
from sage.common.components.sage_vllm.requests.text_prompt import text_prompt
from sage.common.components.sage_vllm.requests.unicode import check_unicode


class EmbeddingCall:
    """Starts its texts on an engine, all or none; a slot may start it later than it was made.

    Args:
        texts: what to embed.
        prompt_name: which of the model's prompts stands before each text; None: its default.
        normalize, dimensions, truncate: as of Engine.embed, for all texts.
        return_errors: name a text's error in the result, instead of ending the call with it.
        cache: has vectors of before, and keeps those that are made; None is none.

    Raises ValueError for a text with half a character, which has no tokens, and
    InvalidOptionError for an option of a wrong type.
    """

    def __init__(
        self,
        texts: Sequence[str],
        *,
        prompt_name: str | None = None,
        normalize: bool = True,
        dimensions: int | None = None,
        truncate: bool = False,
        return_errors: bool = False,
        cache: ResultCache | None = None,
    ) -> None:
        check_embedding_options(
            normalize=normalize, dimensions=dimensions, truncate=truncate, prompt_name=prompt_name
        )
        for index, text in enumerate(texts):
            check_unicode(text, f"text {index}")
        self._texts = texts
        self._prompt_name = prompt_name
        self._options: dict[str, Any] = {
            "normalize": normalize,
            "dimensions": dimensions,
            "truncate": truncate,
            **({} if cache is None else {"cache": cache}),
        }
        self._return_errors = return_errors
        self._began = time.perf_counter()

    def __call__(self, engine: Engine) -> Future[EmbedResult]:
        """Submit the texts; return a Future of the dict that VLLMService.embed describes."""
        return_errors = self._return_errors
        prompt = text_prompt(engine.info, self._prompt_name)

        def combine(embeddings: Sequence[Embedding | Exception]) -> EmbedResult:
            latency = time.perf_counter() - self._began
            result = embedding_result(engine.info.model_id, embeddings, latency)
            if self._options["truncate"]:
                cut = [
                    each for each in embeddings if isinstance(each, Embedding) and each.truncated
                ]
                result["truncated"] = len(cut)
            if "cache" in self._options:
                kept = [each for each in embeddings if isinstance(each, Embedding) and each.cached]
                result["cached"] = len(kept)
            if return_errors:
                result["errors"] = embedding_errors(embeddings)
            return result

        def submit(text: str) -> Future[Embedding]:
            return attempt(
                lambda: engine.embed(prompt + text, **self._options), return_errors=return_errors
            )

        submitted = map(submit, self._texts)
        if len(self._texts) == 1:
            return then(next(submitted), lambda one: combine([one]), return_errors=return_errors)
        return gather(submitted, combine, return_errors=return_errors, item="text")
