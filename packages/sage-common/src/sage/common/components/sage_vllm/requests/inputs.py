"""What ``generate`` takes as prompts, in all the shapes that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from sage.common.components.sage_vllm.engine_contract import Prompt
from sage.common.components.sage_vllm.errors import InvalidInputError
from sage.common.components.sage_vllm.requests.chat.messages import in_openai_form
from sage.common.components.sage_vllm.requests.unicode import check_unicode

_PASS = (
    "pass a string, a conversation (a list of {'role', 'content'}), "
    "{'prompt' or 'messages': ..., 'options': {...}}, or a list of these"
)


class PromptItem(NamedTuple):
    """One prompt with options of its own, and the model that it names.

    ``as_is`` says that a text is meant to be continued: it came as ``{"prompt": text}``.
    """

    prompt: Prompt
    options: Mapping[str, Any] = MappingProxyType({})
    model: str | None = None
    as_is: bool = False


def parse_prompts(inputs: Any) -> list[PromptItem]:
    """Return one item per prompt; raises InvalidInputError with the position."""
    if isinstance(inputs, str | Mapping) or _is_conversation(inputs):
        return [_parse_one(inputs, "the prompt")]
    if not isinstance(inputs, Sequence) or isinstance(inputs, bytes):
        raise InvalidInputError(
            inputs, f"prompts must be texts or conversations, not {inputs!r}", hint=_PASS
        )
    return [_parse_one(item, f"prompt {index}") for index, item in enumerate(inputs)]


def parse_texts(inputs: Any) -> list[str]:
    """Return the texts to embed: one string or a list of them; raises InvalidInputError."""
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, Sequence) or isinstance(texts, bytes):
        problem = f"texts must be a string or a list of strings, not {inputs!r}"
        raise InvalidInputError(inputs, problem)
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise InvalidInputError(text, f"text {index} must be a non-empty string, not {text!r}")
    return list(texts)


def _parse_one(item: Any, which: str) -> PromptItem:
    if isinstance(item, str):
        return PromptItem(prompt=_check_text(item, which))
    if isinstance(item, Mapping):
        if "role" in item:
            return PromptItem(prompt=_check_conversation([item], which))
        return _parse_mapping(item, which)
    if isinstance(item, Sequence) and not isinstance(item, bytes):
        return PromptItem(prompt=_check_conversation(item, which))
    raise InvalidInputError(
        item, f"{which} must be a text or a conversation, not {item!r}", hint=_PASS
    )


def _parse_mapping(item: Mapping[str, Any], which: str) -> PromptItem:
    unknown = set(item) - {"prompt", "messages", "options"}
    if unknown or ("prompt" in item) == ("messages" in item):
        raise InvalidInputError(
            item,
            f"{which} must have the key 'prompt' or 'messages', and may have 'options'; "
            f"it has {sorted(map(str, item))}",
        )
    options = item.get("options", {})
    if not isinstance(options, Mapping):
        problem = f"the options of {which} must be a mapping, not {options!r}"
        raise InvalidInputError(options, problem, hint="pass 'options': {'max_tokens': 64}")
    if "prompt" not in item:
        return PromptItem(prompt=_check_conversation(item["messages"], which), options=options)
    prompt = item["prompt"]
    if not isinstance(prompt, str):
        raise InvalidInputError(prompt, f"{which} has a 'prompt' that is no string: {prompt!r}")
    return PromptItem(prompt=_check_text(prompt, which), options=options, as_is=True)


def _is_conversation(inputs: Any) -> bool:
    return (
        isinstance(inputs, Sequence)
        and not isinstance(inputs, str | bytes)
        and bool(inputs)
        and all(isinstance(message, Mapping) and "role" in message for message in inputs)
    )


def _check_text(text: str, which: str) -> str:
    if not text:
        raise InvalidInputError(text, f"{which} is empty; there is nothing to continue")
    check_unicode(text, which)
    return text


def _check_conversation(messages: Any, which: str) -> Sequence[Mapping[str, Any]]:
    if not _is_conversation(messages):
        raise InvalidInputError(
            messages,
            f"{which} must be a text, or a conversation of at least one message, each with a "
            f"'role', not {messages!r}",
            hint=_PASS,
        )
    for message in messages:
        says = "content" in message or message.get("tool_calls")
        if not isinstance(message["role"], str) or not says:
            raise InvalidInputError(
                message,
                f"{which} has a message without a 'role' that is a string and a 'content': "
                f"{message!r}",
            )
        if not _is_text(message.get("content")):
            raise InvalidInputError(
                message["content"],
                f"{which} has a message whose content is not text, a string or a list of "
                f"{{'type': 'text', 'text': ...}}: {message['content']!r}",
            )
        check_unicode(message, f"a message of {which}")
    return in_openai_form(messages)


def _is_text(content: Any) -> bool:
    """Whether a message's content is text: a link to a picture, vLLM would go and fetch."""
    if content is None or isinstance(content, str):
        return True  # None: an assistant's turn that only calls tools
    return isinstance(content, list) and all(
        isinstance(part, Mapping)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
        for part in content
    )
