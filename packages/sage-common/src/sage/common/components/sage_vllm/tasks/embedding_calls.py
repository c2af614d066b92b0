"""EmbeddingCalls: a service's calls of models that embed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import EllipsisType
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Role
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.requests.embedding_call import EmbeddingCall
from sage.common.components.sage_vllm.requests.gather import wait_for
from sage.common.components.sage_vllm.requests.inputs import parse_texts
from sage.common.components.sage_vllm.requests.result_types import EmbedResult
from sage.common.components.sage_vllm.requests.sampling_options import check_on_error
from sage.common.core.futures import errors_in_future
from sage.common.core.keywords import checks_keywords


class EmbeddingCalls:
    """The part of a VLLMService that embeds texts."""

    _engines: EnginePool
    _check_open: Callable[[], None]

    def embed(self, texts: str | Sequence[str], **options: Any) -> EmbedResult:
        """Embed texts.

        Args:
            texts: a string or a list of strings, as many as memory holds.
            options: ``normalize`` (True by default) scales each vector to length 1;
                ``dimensions`` shortens the vectors, where the model was trained for it;
                ``truncate=True`` embeds the beginning of a text that is too long for the model;
                ``prompt_name`` says which of the model's prompts goes before, not its default;
                ``cache`` is a folder that keeps vectors, as of ``generate``;
                ``model`` names the one of the service's models that embeds.
                ``on_error="return"`` puts None in the place of a vector that could not be made,
                and the reason in ``errors``; by default the first error is raised.

        Returns:
            ``vectors`` (a list of floats per text), ``dim``, ``model_id``, ``tokens_used``
            (``prompt``, ``total``) and ``latency``, seconds from the call to the last vector;
            with ``truncate=True`` also ``truncated``, how many texts were cut; with a cache
            ``cached``, how many vectors it had; with
            ``on_error="return"`` also ``errors``, a list of ``{"index", "type", "message"}``.

        Raises:
            ValueError: a text or an option is not valid; it says which.
            PromptTooLongError: a text is too long, without ``truncate``; it says which.
        """
        result: EmbedResult = wait_for(self.embed_async(texts, **options))
        return result

    @errors_in_future
    @checks_keywords
    def embed_async(
        self,
        texts: str | Sequence[str],
        *,
        normalize: bool = True,
        dimensions: int | None = None,
        truncate: bool = False,
        prompt_name: str | None = None,
        cache: str | os.PathLike[str] | Mapping[str, Any] | EllipsisType | None = ...,
        on_error: str = "raise",
        model: str | None = None,
    ) -> Future[EmbedResult]:
        """Embed texts and return a Future of the result; cancelling it aborts the embedding."""
        self._check_open()
        check_on_error(on_error)
        parsed = parse_texts(texts)
        given = {} if cache is ... else {"cache": cache}  # else it is the service's
        call = EmbeddingCall(
            parsed,
            prompt_name=prompt_name,
            normalize=normalize,
            dimensions=dimensions,
            truncate=truncate,
            return_errors=on_error == "return",
            cache=self._engines.caches.of(given),
        )
        return self._engines.call(Role.EMBED, call, model=model, work=len(parsed))
