"""chat_result: what a chat completion says, as VLLMService.generate gives it."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from sage.common.components.endpoint_error import EndpointError
from sage.libs.operators.errors import NoAnswerError

_BESIDE_TEXT = {
    "refusal": "refusal",
    "tool_calls": "tool_calls",
    "reasoning": "reasoning",
    "reasoning_content": "reasoning",  # DeepSeek's name for it, and that of older vLLMs
}


def chat_result(url: str, body: Mapping[str, Any], latency: float) -> dict[str, Any]:
    """Return the result of a chat completion's JSON.

    Beside the text it has ``refusal``, ``tool_calls`` and ``reasoning``, where the answer has them.

    Raises:
        EndpointError: it is no chat completion.
        NoAnswerError: no choice of it has a text.
    """
    given = body.get("choices")
    if not isinstance(given, list) or not given:
        raise EndpointError(url, f"no chat completion but {reprlib.repr(body)}", 200)
    choices = [_choice(url, one) for one in given]
    usage = body.get("usage")  # some servers do not count
    tokens = None
    if isinstance(usage, Mapping):
        kinds = ("prompt", "completion", "total")
        tokens = {kind: usage.get(f"{kind}_tokens") for kind in kinds}
    answers = [choice for choice in choices if choice["text"] is not None]
    result = {
        **(answers or choices)[0],
        "tokens_used": tokens,
        "latency": latency,
        "model_id": body.get("model"),
        "request_id": body.get("id"),
    }
    if len(choices) > 1:
        result["choices"] = choices
    if not answers:
        del result["text"]
        raise NoAnswerError(result)
    return result


def _choice(url: str, choice: Any) -> dict[str, Any]:
    """Return a choice as a result has it; its text is None where there is none."""
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(message, Mapping):
        raise EndpointError(url, f"a choice without a message: {reprlib.repr(choice)}", 200)
    beside = {name: message[key] for key, name in _BESIDE_TEXT.items() if message.get(key)}
    text = message.get("content")
    if isinstance(text, list):  # of parts, of which those of a text count
        parts = [part.get("text") for part in text if isinstance(part, Mapping)]
        text = "".join(part for part in parts if isinstance(part, str)) or None
    if text == "" and beside:
        text = None
    if text is not None and not isinstance(text, str):
        raise EndpointError(url, f"the content is no text: {reprlib.repr(text)}", 200)
    return {"text": text, "finish_reason": choice.get("finish_reason"), **beside}
