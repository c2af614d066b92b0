"""OpenAIEmbedding: any endpoint that speaks OpenAI's /v1/embeddings."""

from __future__ import annotations

from typing import ClassVar

from sage.common.components.openai_client import endpoint_errors, openai_client
from sage.common.components.sage_embedding.embedding_model import EmbeddingModel


class OpenAIEmbedding(EmbeddingModel):
    """Embeds by the official client, which retries what is worth it.

    Args:
        model: the model's name at the endpoint.
        base_url: such as ``"http://localhost:8000/v1"``; None reads ``OPENAI_BASE_URL``.
        api_key: None reads ``OPENAI_API_KEY``; servers that want no key take any string.
        dimensions: ask for vectors of this length, where the model can shorten them.
        batch_size: texts per request; OpenAI takes up to 2048.
        timeout: seconds per request.

    Raises PackageNotInstalledError, ValueError without a key, and EndpointError for a request
    that failed.
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
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._client = openai_client(base_url=base_url, api_key=api_key, timeout=timeout)
        self._model = model
        self._options = {} if dimensions is None else {"dimensions": dimensions}
        self._batch_size = batch_size

    def _embed(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = []
        for start in range(0, len(texts), self._batch_size):
            vectors += self._request(texts[start : start + self._batch_size])
        return vectors

    def _request(self, texts: list[str]) -> list[list[float]]:
        with endpoint_errors():
            answer = self._client.embeddings.create(
                model=self._model,
                input=texts,
                encoding_format="float",  # not every server knows base64, the client's default
                extra_body=self._options,
            )
        return [item.embedding for item in sorted(answer.data, key=lambda item: item.index)]

    def _release(self) -> None:
        self._client.close()
