"""What ``generate`` takes as prompts, in all the shapes that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Prompt
from sage.common.components.sage_vllm.requests.unicode import check_unicode

SHAPES = (
    "a string, a conversation (a list of {'role', 'content'}), "
    "{'prompt' or 'messages': ..., 'options': {...}}, or a list of these"
)


@dataclass(frozen=True, kw_only=True)
class PromptItem:
    """One prompt with options of its own."""

    prompt: Prompt
    options: Mapping[str, Any] = field(default_factory=dict)


def parse_prompts(inputs: Any) -> list[PromptItem]:
    """Return one item per prompt; raises ValueError naming the position and the valid shapes."""
    if isinstance(inputs, str | Mapping) or _is_conversation(inputs):
        return [_parse_one(inputs, "the prompt")]
    if not isinstance(inputs, Sequence) or isinstance(inputs, bytes):
        raise ValueError(f"prompts must be {SHAPES}; not {inputs!r}")
    return [_parse_one(item, f"prompt {index}") for index, item in enumerate(inputs)]


def parse_texts(inputs: Any) -> list[str]:
    """Return the texts to embed: one string or a list of them; raises ValueError."""
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, Sequence) or isinstance(texts, bytes):
        raise ValueError(f"texts must be a string or a list of strings, not {inputs!r}")
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise ValueError(f"text {index} must be a non-empty string, not {text!r}")
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
    raise ValueError(f"{which} must be {SHAPES}; not {item!r}")


def _parse_mapping(item: Mapping[str, Any], which: str) -> PromptItem:
    unknown = set(item) - {"prompt", "messages", "options"}
    if unknown or ("prompt" in item) == ("messages" in item):
        raise ValueError(
            f"{which} must have the key 'prompt' or 'messages', and may have 'options'; "
            f"it has {sorted(map(str, item))}"
        )
    options = item.get("options", {})
    if not isinstance(options, Mapping):
        raise ValueError(f"the options of {which} must be a mapping, not {options!r}")
    if "prompt" not in item:
        return PromptItem(prompt=_check_conversation(item["messages"], which), options=options)
    prompt = item["prompt"]
    if not isinstance(prompt, str):
        raise ValueError(f"{which} has a 'prompt' that is no string: {prompt!r}")
    return PromptItem(prompt=_check_text(prompt, which), options=options)


def _is_conversation(inputs: Any) -> bool:
    return (
        isinstance(inputs, Sequence)
        and not isinstance(inputs, str | bytes)
        and bool(inputs)
        and all(isinstance(message, Mapping) and "role" in message for message in inputs)
    )


def _check_text(text: str, which: str) -> str:
    if not text:
        raise ValueError(f"{which} is empty; there is nothing to continue")
    check_unicode(text, which)
    return text


def _check_conversation(messages: Any, which: str) -> Sequence[Mapping[str, Any]]:
    if not _is_conversation(messages):
        raise ValueError(
            f"{which} must be {SHAPES}; a conversation has at least one message and each message "
            f"a 'role', in {messages!r}"
        )
    for message in messages:
        if not isinstance(message["role"], str) or "content" not in message:
            raise ValueError(
                f"{which} has a message without a 'role' that is a string and a 'content': "
                f"{message!r}"
            )
        if not _is_text(message["content"]):
            raise ValueError(
                f"{which} has a message whose content is not text, a string or a list of "
                f"{{'type': 'text', 'text': ...}}: {message['content']!r}"
            )
        check_unicode(message, f"a message of {which}")
    return list(messages)


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
