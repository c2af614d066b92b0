"""KeptAnswers: answers requests of an engine from a cache, and keeps what the engine answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

from sage.common.components.sage_vllm.cache.answer_key import cache_key, engine_fingerprint
from sage.common.components.sage_vllm.cache.result_cache import ResultCache
from sage.common.components.sage_vllm.cache.stored_answer import (
    restored,
    restored_embedding,
    stored,
    stored_embedding,
)
from sage.common.components.sage_vllm.driver.engine_request import EngineRequest
from sage.common.components.sage_vllm.engine_contract import (
    EngineInfo,
    EngineSpec,
    Generation,
    Reasoning,
)


class Form(NamedTuple):
    """How answers of a kind are kept: as bytes, of which the one to a request is made again."""

    stored: Callable[[Any], bytes | None]
    restored: Callable[[bytes, EngineRequest], Any]


def _generation(kept: bytes, request: EngineRequest) -> Generation:
    return restored(
        kept,
        request_id=request.id,
        latency=time.perf_counter() - request.started,
        prompt_token_ids=request.input["prompt_token_ids"],
    )


GENERATION = Form(stored, _generation)
EMBEDDING = Form(stored_embedding, lambda kept, _: restored_embedding(kept))


class KeptAnswers:
    """What caches have of one engine's answers."""

    def __init__(self, spec: EngineSpec, info: EngineInfo) -> None:
        self._model_id = spec.model_id
        self._fingerprint = engine_fingerprint(spec, info)
        self._lock = threading.Lock()
        self.found = 0
        """Requests that were answered from a cache."""

    def answer(
        self,
        cache: ResultCache,
        request_key: bytes,
        request: EngineRequest,
        start: Callable[[], Future[Any]],
        form: Form,
    ) -> Future[Any]:
        """Return a Future of what the cache has, or of what ``start`` starts, to be kept then."""
        key = cache_key(self._fingerprint, request_key)
        if (kept := cache.find(key)) is not None:
            try:
                answer = form.restored(kept, request)
            except (ValueError, TypeError, KeyError) as error:  # another program wrote it
                cache.count_error(error)
            else:
                return self._complete(request, answer)
        future = start()
        future.add_done_callback(partial(self._keep, cache, key, form))
        return future

    def _complete(self, request: EngineRequest, answer: Any) -> Future[Any]:
        with self._lock:
            self.found += 1
        if request.on_text is not None:
            (only,) = answer.completions
            for piece in (Reasoning(only.reasoning or ""), only.text):
                if piece:
                    request.on_text(piece)
        request.succeed(answer)
        return request.future

    def _keep(self, cache: ResultCache, key: bytes, form: Form, done: Future[Any]) -> None:
        if not done.cancelled() and done.exception() is None:
            cache.keep(key, self._model_id, partial(form.stored, done.result()))
