"""Operators that generate and embed with the vLLM service of their environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.sampling_options import check_sampling_options
from sage.common.core.functions import AsyncMapFunction

_UNKNOWN_CAPACITY = 64  # records in flight where the service does not say what it can use


class _ServiceOperator(AsyncMapFunction):
    """Reads a field of each record, has the service work on it, puts the result beside it."""

    def __init__(
        self,
        service_name: str,
        input_key: str,
        output_key: str,
        *,
        timeout: float | None,
        ordered: bool,
        max_in_flight: int | None,
        retries: int,
    ) -> None:
        self.service_name = service_name
        self.input_key = input_key
        self.output_key = output_key
        self.timeout = timeout
        self.ordered = ordered
        self.max_in_flight = max_in_flight
        self.retries = retries

    def default_max_in_flight(self) -> int:
        """Return what the service can make use of, so that it is never short of work."""
        return self.ctx.services.capacity(self.service_name) or _UNKNOWN_CAPACITY

    def _read(self, record: Any) -> Any:
        """Return what the service is to work on."""
        if isinstance(record, str):
            return record
        if isinstance(record, Mapping):
            if self.input_key not in record:
                raise ValueError(
                    f"the record has no key {self.input_key!r}; it has {sorted(map(str, record))}"
                )
            return record[self.input_key]
        if _is_pair(record):
            return record[1]
        raise ValueError(
            f"a record must be a string, a dict with the key {self.input_key!r}, or "
            f"[original, {self.input_key}]; not {record!r}"
        )

    def _enrich(self, record: Any, output: Any, details: Mapping[str, Any]) -> Any:
        """Return the record that goes on; the one that came in is left as it was."""
        if isinstance(record, str):
            return {self.input_key: record, self.output_key: output, **details}
        original = record[0] if _is_pair(record) else record
        if isinstance(original, Mapping):
            return {**original, self.output_key: output, **details}
        return [original, output]


class VLLMServiceGenerator(_ServiceOperator):
    """Generates a text for each record, with as many records in flight as the service can use.

    Records and what becomes of them:

    - a string: ``{"prompt": the string, "generated": the text, "generation": {...}}``;
    - a dict: a copy with ``generated`` and ``generation`` added; the prompt, a string or a
      conversation, is read from ``prompt_key``;
    - ``[original, prompt]``: if ``original`` is a dict, a copy of it with both added, else
      ``[original, text]``;
    - a conversation (a list of ``{"role", "content"}``): as a string, under ``prompt``.

    Args:
        service_name: the name that the service is registered by.
        timeout: seconds a record may take, waiting for its turn in the engine included. None, no
            limit, is the default: with hundreds of records in flight, how long one takes depends
            on the machine far more than on the record.
        prompt_key: where a dict's prompt is, ``"prompt"`` by default.
        output_key: where the text goes, ``"generated"`` by default.
        details_key: where the rest of the service's result goes (``finish_reason``,
            ``tokens_used``, ...), ``"generation"`` by default; None leaves it out.
        ordered: False emits each record as soon as it is done.
        max_in_flight: records in flight; None takes the service's capacity.
        retries: how often a record is tried again when the engine, not the record, failed.
        options: sampling options for every record, such as ``max_tokens=64``.
    """

    def __init__(
        self,
        service_name: str = "vllm_service",
        timeout: float | None = None,
        *,
        prompt_key: str = "prompt",
        output_key: str = "generated",
        details_key: str | None = "generation",
        ordered: bool = True,
        max_in_flight: int | None = None,
        retries: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(
            service_name,
            prompt_key,
            output_key,
            timeout=timeout,
            ordered=ordered,
            max_in_flight=max_in_flight,
            retries=retries,
        )
        check_sampling_options(options, "VLLMServiceGenerator")
        self.details_key = details_key
        self.options = options

    def submit(self, record: Any) -> Future[Any]:
        """Start the generation of one record."""
        prompt = record if _is_conversation(record) else self._read(record)
        return self.call_service_async(
            self.service_name, [prompt], method="generate", **self.options
        )

    def complete(self, record: Any, result: list[dict[str, Any]]) -> Any:
        """Return the record with its text."""
        details = dict(result[0])
        text = details.pop("text")
        extra = {} if self.details_key is None else {self.details_key: details}
        if _is_conversation(record):
            return {self.input_key: record, self.output_key: text, **extra}
        return self._enrich(record, text, extra)


class VLLMEmbeddingOperator(_ServiceOperator):
    """Embeds a text of each record; records as for VLLMServiceGenerator, without conversations.

    A dict's text is read from ``text_key`` and its vector, a list of floats, goes to
    ``output_key``; a string becomes ``{"text": the string, "embedding": the vector}``. The other
    arguments are those of VLLMServiceGenerator.
    """

    def __init__(
        self,
        service_name: str = "vllm_service",
        timeout: float | None = None,
        *,
        text_key: str = "text",
        output_key: str = "embedding",
        normalize: bool = True,
        ordered: bool = True,
        max_in_flight: int | None = None,
        retries: int = 0,
    ) -> None:
        super().__init__(
            service_name,
            text_key,
            output_key,
            timeout=timeout,
            ordered=ordered,
            max_in_flight=max_in_flight,
            retries=retries,
        )
        self.normalize = normalize

    def submit(self, record: Any) -> Future[Any]:
        """Start the embedding of one record."""
        text = self._read(record)
        return self.call_service_async(
            self.service_name, text, method="embed", normalize=self.normalize
        )

    def complete(self, record: Any, result: dict[str, Any]) -> Any:
        """Return the record with its vector."""
        return self._enrich(record, result["vectors"][0], {})


def _is_pair(record: Any) -> bool:
    if isinstance(record, str | bytes):
        return False
    return isinstance(record, Sequence) and len(record) == 2


def _is_conversation(record: Any) -> bool:
    return (
        isinstance(record, list)
        and bool(record)
        and all(isinstance(message, Mapping) and "role" in message for message in record)
    )
