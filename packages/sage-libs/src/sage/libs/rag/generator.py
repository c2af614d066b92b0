"""OpenAIGenerator: generates with any OpenAI-compatible server."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.requests.chat.typed_schema import (
    TypedSchema,
    parsed,
    typed_schema,
)
from sage.common.components.sage_vllm.requests.inputs import parse_prompts
from sage.common.components.sage_vllm.tokens import TokenIds
from sage.common.core.functions import AsyncMapFunction
from sage.common.core.futures import errors_in_future
from sage.libs.operators.generation_records import (
    ANSWER_KEY,
    DETAILS_KEY,
    GenerationRecords,
)
from sage.libs.rag.chat_endpoint import ChatEndpoint


class OpenAIGenerator(AsyncMapFunction):
    """Generates a text for each record with a chat model behind an OpenAI-compatible server.

    Records, keys, templates and schemas are those of VLLMServiceGenerator, and so is what comes
    out: one can take the other's place. Only that a prompt which is a text is sent as a user's
    message, since chat servers take nothing else. Many records are in flight from one thread.
    Cancelling the pipeline, and a record's timeout, end the HTTP requests.

    A request that fails raises an EndpointError; without a connection, after half an answer, and
    after the statuses 408, 409, 429 and 5xx, it is tried again. A server that says by Retry-After
    when to come again is waited for, by all records, as long as ``patience`` lasts. An answer
    without a text, such as a refusal, raises a NoAnswerError that has what came. Needs ``pip
    install 'isage-common[openai]'``.

    Args:
        model: the model's name on the server; or a dict of ``model_name``, ``base_url``,
            ``api_key`` and options.
        base_url: such as ``"http://localhost:8000/v1"``; None reads ``OPENAI_BASE_URL``, and
            without that means OpenAI's own.
        api_key: None reads ``OPENAI_API_KEY``. Servers that want no key take any string.
        timeout: seconds a record may take, retries included; None, the default, is no limit.
        patience: seconds that a server may refuse everything and ask to come again, 600 by
            default; they count anew after each answer, and not as ``retries``.
        prompt_key, prompt_template, system_prompt, options_key: as for VLLMServiceGenerator.
        json_schema: as for VLLMServiceGenerator. OpenAI's own models take only schemas whose
            objects require all their properties and allow no others.
        merge_fields, output_key, details_key: as for VLLMServiceGenerator.
        ordered: False emits each record as soon as it is done.
        max_in_flight: records in flight, 256 by default.
        retries: how often a record is tried again, after 0.5 s at most and then twice as long.
        **options: of ``chat.completions.create`` for every record, such as ``max_tokens=64``; what
            only your server knows goes into ``extra_body={"top_k": 20}``.
    """

    free_arguments = frozenset({"api_key", "timeout", "patience", "max_in_flight", "retries"})

    def __init__(
        self,
        model: str | Mapping[str, Any],
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = None,
        patience: float = 600.0,
        prompt_key: str = "prompt",
        prompt_template: str | None = None,
        system_prompt: str | None = None,
        options_key: str | None = None,
        json_schema: Mapping[str, Any] | type | None = None,
        merge_fields: bool = True,
        output_key: str = ANSWER_KEY,
        details_key: str | None = DETAILS_KEY,
        ordered: bool = True,
        max_in_flight: int | None = 256,
        retries: int = 3,
        **options: Any,
    ) -> None:
        if isinstance(model, Mapping):
            model, base_url, api_key, options = _from_dict(model, base_url, api_key, options)
        if model == "":
            raise ValueError("model is empty; it is the model's name on the server")
        if not isinstance(model, str):
            raise TypeError(
                f"model is the model's name on the server, or a dict such as {{'model_name': "
                f"'qwen', 'base_url': 'http://localhost:8000/v1'}}, not {model!r}"
            )
        self.model = model
        self.base_url = base_url
        self.timeout = timeout
        self.patience = patience
        self.ordered = ordered
        self.max_in_flight = max_in_flight
        self.retries = retries
        self.options = options
        json_schema = typed_schema(json_schema)
        self._typed = json_schema if isinstance(json_schema, TypedSchema) else None
        if json_schema is not None:
            schema = {"name": "answer", "schema": json_schema, "strict": True}
            self.options["response_format"] = {"type": "json_schema", "json_schema": schema}
        self._records = GenerationRecords(
            prompt_key=prompt_key,
            prompt_template=prompt_template,
            system_prompt=system_prompt,
            options_key=options_key,
            json_schema=json_schema,
            merge_fields=merge_fields,
            output_key=output_key,
            details_key=details_key,
        )
        self._api_key = api_key
        self._endpoint: ChatEndpoint | None = None

    def setup(self) -> None:
        """Make the client, so that a missing key or an unknown option stops the run here."""
        self._open()

    def cleanup(self) -> None:
        """End the connections."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            endpoint.close()

    @errors_in_future
    def submit(self, record: Any) -> Future[Any]:
        """Start the generation of one record."""
        endpoint = self._open()
        (item,) = parse_prompts([self._records.prompt(record)])
        messages = item.prompt
        if isinstance(messages, TokenIds):
            raise ValueError(
                f"a server takes texts and conversations, not token ids: {[*messages]!r:.200}"
            )
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        own = {**item.options, **self._records.options(record)}
        endpoint.check_options(own, "the record's options")
        return endpoint.ask(messages, {**self.options, **own})

    def complete(self, record: Any, result: dict[str, Any]) -> Any:
        """Return the record with its text, or with the fields of its JSON."""
        if self._typed is not None:
            result = {**result, "parsed": parsed(result["text"], self._typed)}
        return self._records.answered(record, result)

    def _open(self) -> ChatEndpoint:
        if self._endpoint is None:  # setup() has run before any thread submits
            endpoint = ChatEndpoint(
                self.model,
                base_url=self.base_url,
                api_key=self._api_key,
                patience=self.patience,
            )
            self._endpoint = endpoint  # first, so that cleanup() ends it whatever follows
            endpoint.check_options(self.options, "OpenAIGenerator", _PARAMETERS)
        return self._endpoint


_PARAMETERS = tuple(inspect.signature(OpenAIGenerator).parameters)


def _from_dict(
    config: Mapping[str, Any],
    base_url: str | None,
    api_key: str | None,
    options: Mapping[str, Any],
) -> tuple[Any, str | None, str | None, dict[str, Any]]:
    """Return model, base_url, api_key and options of a configuration as a dict.

    Raises ValueError for what is given twice, and for a dict that names no model, or None as the
    server.
    """
    rest = dict(config)
    beside = {"base_url": base_url, "api_key": api_key, **options}
    beside = {name: value for name, value in beside.items() if value is not None}
    twice = sorted(set(rest) & set(beside))
    if {"model", "model_name"} <= set(rest):
        twice.append("model")
    if twice:
        raise ValueError(f"OpenAIGenerator is given {twice[0]!r} twice; leave one of them out")
    if rest.pop("method", "openai") != "openai":
        raise ValueError(f"OpenAIGenerator has the method 'openai' alone, not {config['method']!r}")
    if not {"model", "model_name"} & set(rest):
        raise ValueError(f"the dict for OpenAIGenerator has no 'model_name': {sorted(rest)}")
    if "base_url" in rest and rest["base_url"] is None:  # of a variable that is not set
        raise ValueError(
            "'base_url' is None in the dict for OpenAIGenerator; name the server, or leave it out "
            "to send the prompts to OpenAI"
        )
    model = rest.pop("model_name") if "model_name" in rest else rest.pop("model")
    url, key = rest.pop("base_url", base_url), rest.pop("api_key", api_key)
    return model, url, key, {**rest, **options}
