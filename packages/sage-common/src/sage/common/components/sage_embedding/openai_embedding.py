"""OpenAIEmbedding: any endpoint that speaks OpenAI's /v1/embeddings."""

from __future__ import annotations

import reprlib
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

from sage.common.components.endpoint_answer import answer_body
from sage.common.components.endpoint_error import EndpointError
from sage.common.components.endpoint_patience import EndpointPatience
from sage.common.components.openai_client import endpoint_errors, openai_client
from sage.common.components.sage_embedding.embedding_model import EmbeddingModel
from sage.common.core.backoff import full_jitter

_RETRY_BACKOFF = 0.5  # seconds
_RETRY_BACKOFF_MAX = 60.0


class OpenAIEmbedding(EmbeddingModel):
    """Embeds by the official client.

    A request is tried again without a connection, after half an answer, and after the statuses
    408, 409, 429 and 5xx. A server that says by Retry-After when to come again is waited for as
    long as ``patience`` lasts.

    Args:
        model: the model's name at the endpoint.
        base_url: such as ``"http://localhost:8000/v1"``; None reads ``OPENAI_BASE_URL``, and
            without that means OpenAI's own.
        api_key: None reads ``OPENAI_API_KEY``; servers that want no key take any string.
        dimensions: ask for vectors of this length, where the model can shorten them.
        batch_size: texts per request; OpenAI takes up to 2048.
        timeout: seconds per request.
        retries: how often a request is tried again, after 0.5 s at most and then twice as long.
        patience: seconds that the server may refuse everything and ask to come again.

    Raises PackageNotInstalledError, ValueError without a key, TypeError for a model that is no
    string, and EndpointError for a request that failed.
    """

    method_name: ClassVar[str] = "openai"

    def __init__(
        self,
        *,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        dimensions: int | None = None,
        batch_size: int = 256,
        timeout: float = 60.0,
        retries: int = 3,
        patience: float = 600.0,
    ) -> None:
        if not isinstance(model, str):
            raise TypeError(f"model is the model's name at the endpoint, not {model!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._patience = EndpointPatience(patience)
        self._client = openai_client(
            base_url=base_url, api_key=api_key, timeout=timeout, max_retries=0
        )
        self._url = f"{self._client.base_url}embeddings"
        self._model = model
        self._options = {} if dimensions is None else {"dimensions": dimensions}
        self._batch_size = batch_size
        self._retries = retries
        self._ended = threading.Event()

    @property
    def identity(self) -> str:
        """The model's name and the endpoint."""
        return f"openai {self._model} at {self._client.base_url}"

    def _embed(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        for start in range(0, len(texts), self._batch_size):
            vectors += self._request(texts[start : start + self._batch_size])
        return vectors

    def _request(self, texts: list[str]) -> list[list[float]]:
        refusals = failures = 0
        while True:
            while pause := self._patience.pause():
                self._wait(pause)
            try:
                body = self._post(texts)
            except EndpointError as error:
                if error.retry_after is not None and error.retryable:
                    refusals += 1
                    self._patience.refused(error, refusals)
                    continue
                failures += 1
                if not error.retryable or failures > self._retries:
                    raise
                self._wait(full_jitter(_RETRY_BACKOFF, failures, _RETRY_BACKOFF_MAX))
                continue
            self._patience.answered()
            return _vectors(self._url, body, len(texts))

    def _post(self, texts: list[str]) -> dict[str, Any]:
        with endpoint_errors():
            answer = self._client.embeddings.with_raw_response.create(
                model=self._model,
                input=texts,
                encoding_format="float",  # not every server knows base64, the client's default
                extra_body=self._options,
            )
        return answer_body(self._url, answer.text, "embeddings")

    def _wait(self, seconds: float) -> None:
        if self._ended.wait(seconds):
            raise RuntimeError("this 'openai' embedding model has been closed")

    def _release(self) -> None:
        self._ended.set()
        self._client.close()


def _vectors(url: str, body: Mapping[str, Any], wanted: int) -> list[list[float]]:
    """Return the vectors in the order of their texts; raises EndpointError."""
    items = body.get("data")
    if not isinstance(items, list) or not all(
        isinstance(item, Mapping)
        and isinstance(item.get("index"), int)
        and isinstance(item.get("embedding"), list)
        for item in items
    ):
        raise EndpointError(url, f"no embeddings but {reprlib.repr(body)}", 200)
    by_text = sorted(items, key=lambda item: item["index"])
    indices = [item["index"] for item in by_text]
    if len(items) == wanted and indices != list(range(wanted)):
        raise EndpointError(url, f"vectors of the texts {indices}, not of 0 to {wanted - 1}", 200)
    return [item["embedding"] for item in by_text]
