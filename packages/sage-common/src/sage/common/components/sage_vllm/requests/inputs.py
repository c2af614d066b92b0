"""What ``generate`` takes as prompts, in all the shapes that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from sage.common.components.sage_vllm.engine_contract import Prompt
from sage.common.components.sage_vllm.errors import InvalidInputError
from sage.common.components.sage_vllm.requests.chat.messages import in_openai_form
from sage.common.components.sage_vllm.requests.media.content_parts import check_content
from sage.common.components.sage_vllm.requests.unicode import check_unicode
from sage.common.components.sage_vllm.tokens import TokenIds
from sage.common.core.errors import near_name

_PASS = (
    "pass a string, a conversation (a list of {'role', 'content'}), token ids (a list of whole "
    "numbers), {'prompt', 'messages' or 'prompt_token_ids': ..., 'options': {...}}, or a list of "
    "these"
)
_ROLES = ("system", "user", "assistant", "tool", "developer")
_KINDS = ("prompt", "messages", "prompt_token_ids")


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
    if isinstance(inputs, str | Mapping) or _is_conversation(inputs) or are_token_ids(inputs):
        return [_parse_one(inputs, "the prompt")]
    if not isinstance(inputs, Sequence) or isinstance(inputs, bytes):
        raise InvalidInputError(
            inputs, f"prompts must be texts or conversations, not {inputs!r}", hint=_PASS
        )
    return [_parse_one(item, f"prompt {index}") for index, item in enumerate(inputs)]


def parse_texts(inputs: Any, what: str = "text") -> list[str]:
    """Return texts, or queries by ``what``: one string or a list; raises InvalidInputError."""
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, Sequence) or isinstance(texts, bytes):
        those = "texts" if what == "text" else f"the {what}"
        problem = f"{those} must be a string or a list of strings, not {inputs!r}"
        raise InvalidInputError(inputs, problem)
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            problem = f"{what} {index} must be a non-empty string, not {text!r}"
            raise InvalidInputError(text, problem)
    return list(texts)


def _parse_one(item: Any, which: str) -> PromptItem:
    if isinstance(item, str):
        return PromptItem(prompt=_check_text(item, which))
    if isinstance(item, Mapping):
        if "role" in item:
            return PromptItem(prompt=_check_conversation([item], which))
        return _parse_mapping(item, which)
    if are_token_ids(item):
        return PromptItem(prompt=_check_token_ids(item, which))
    if isinstance(item, Sequence) and not isinstance(item, bytes):
        return PromptItem(prompt=_check_conversation(item, which))
    raise InvalidInputError(
        item, f"{which} must be a text or a conversation, not {item!r}", hint=_PASS
    )


def _parse_mapping(item: Mapping[str, Any], which: str) -> PromptItem:
    kinds = [kind for kind in _KINDS if kind in item]
    if set(item) - {*_KINDS, "options"} or len(kinds) != 1:
        raise InvalidInputError(
            item,
            f"{which} must have the key 'prompt' or 'messages' or 'prompt_token_ids', and may have "
            f"'options'; it has {sorted(map(str, item))}",
        )
    options = item.get("options", {})
    if not isinstance(options, Mapping):
        problem = f"the options of {which} must be a mapping, not {options!r}"
        raise InvalidInputError(options, problem, hint="pass 'options': {'max_tokens': 64}")
    prompt = item[kinds[0]]
    if kinds[0] == "messages":
        return PromptItem(prompt=_check_conversation(prompt, which), options=options)
    if kinds[0] == "prompt_token_ids" or are_token_ids(prompt):
        return PromptItem(prompt=_check_token_ids(prompt, which), options=options)
    if not isinstance(prompt, str):
        raise InvalidInputError(prompt, f"{which} has a 'prompt' that is no string: {prompt!r}")
    return PromptItem(prompt=_check_text(prompt, which), options=options, as_is=True)


def are_token_ids(inputs: Any) -> bool:
    """Whether a prompt is token ids: a list that begins with a whole number."""
    return (
        isinstance(inputs, Sequence)
        and not isinstance(inputs, str | bytes)
        and bool(inputs)
        and _is_token_id(inputs[0])
    )


def _is_token_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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


def _check_token_ids(token_ids: Any, which: str) -> TokenIds:
    if not isinstance(token_ids, Sequence) or isinstance(token_ids, str | bytes) or not token_ids:
        problem = f"{which} must have at least one token id, a whole number, not {token_ids!r}"
        hint = "of an array or a tensor pass its tolist()"
        raise InvalidInputError(token_ids, problem, hint=hint)
    for index, token_id in enumerate(token_ids):
        if not _is_token_id(token_id):
            problem = f"token {index} of {which} must be a whole number, not {token_id!r}"
            raise InvalidInputError(token_id, problem)
    return TokenIds(token_ids)


def _check_role(message: Mapping[str, Any], which: str) -> None:
    """Refuse a misspelt role: most templates print it as it is, and the model has never seen it.

    A role unlike the usual ones may be one that a model's own template knows.
    """
    role = message["role"]
    if role in _ROLES:
        return
    if near := near_name(role.strip().lower(), _ROLES, likeness=0.8):
        problem = f"{which} has a message of an unknown role {role!r}"
        raise InvalidInputError(message, problem, hint=f"did you mean {near!r}?")


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
        _check_role(message, which)
        check_content(message.get("content"), which)
        check_unicode(message, f"a message of {which}")
    return in_openai_form(messages)
