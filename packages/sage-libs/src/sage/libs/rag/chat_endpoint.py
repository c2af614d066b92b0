"""ChatEndpoint: many requests at once to an OpenAI-compatible server, from one thread."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from itertools import count
from typing import Any

from sage.common.components.endpoint_answer import answer_body
from sage.common.components.endpoint_error import EndpointError
from sage.common.components.endpoint_patience import EndpointPatience
from sage.common.components.openai_client import async_openai_client, endpoint_errors
from sage.common.core.errors import nearest
from sage.libs.rag.chat_result import chat_result

_OURS = frozenset({"messages", "model", "stream", "stream_options", "timeout"})


class ChatEndpoint:
    """A model behind a server; its requests run on an event loop of its own, until ``close``.

    Raises ValueError without an API key, PackageNotInstalledError without ``openai``.
    """

    def __init__(
        self, model: str, *, base_url: str | None, api_key: str | None, patience: float
    ) -> None:
        self._patience = EndpointPatience(patience)
        # How long to wait and how often to try is for the operator to say.
        self._client = async_openai_client(
            base_url=base_url, api_key=api_key, timeout=None, max_retries=0
        )
        self._url = f"{self._client.base_url}chat/completions"
        self._model = model
        parameters = inspect.signature(self._client.chat.completions.create).parameters
        self._options = sorted(set(parameters) - _OURS)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="sage-chat-endpoint", daemon=True
        )
        self._thread.start()

    def check_options(
        self, options: Mapping[str, Any], where: str, others: Sequence[str] = ()
    ) -> None:
        """Raise ValueError for an option that the client does not know.

        ``others`` are names that ``where`` knows besides, which a misspelt option may have meant.
        """
        for name in options:
            if name not in self._options:
                hint = nearest(str(name), [*self._options, *others])
                raise ValueError(
                    f"unknown option {name!r} in {where}; {hint} "
                    f"What only this server knows goes into extra_body={{{name!r}: ...}}"
                )

    def ask(
        self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> Future[dict[str, Any]]:
        """Return a Future of the answer, a dict as VLLMService.generate gives for each prompt.

        Cancelling the Future ends the HTTP request. Its error is an EndpointError, or a
        NoAnswerError for an answer that has no text.
        """
        return asyncio.run_coroutine_threadsafe(self._ask(messages, options), self._loop)

    def close(self) -> None:
        """Cancel what is in flight and end the connections and the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _ask(
        self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        began = time.perf_counter()
        for attempts in count(1):
            while pause := self._patience.pause():
                await asyncio.sleep(pause)
            try:
                body = await self._post(messages, options)
                break
            except EndpointError as error:
                self._patience.refused(error, attempts)
        self._patience.answered()
        result = chat_result(self._url, body, time.perf_counter() - began)
        if (options.get("response_format") or {}).get("type") in ("json_schema", "json_object"):
            result["parsed"] = _parse(result)
        return result

    async def _post(
        self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        with endpoint_errors():
            answer: Any = await self._client.chat.completions.with_raw_response.create(
                model=self._model,
                messages=messages,  # type: ignore[arg-type]  # the client's TypedDicts of these
                **options,
            )
        return answer_body(self._url, answer.text, "chat completion")

    async def _end(self) -> None:
        requests = asyncio.all_tasks() - {asyncio.current_task()}
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        await self._client.close()


def _parse(result: Mapping[str, Any]) -> Any:
    """Return the answer's JSON, or None where it is cut off."""
    if result["finish_reason"] != "stop":
        return None
    try:
        return json.loads(result["text"])
    except json.JSONDecodeError:
        return None
