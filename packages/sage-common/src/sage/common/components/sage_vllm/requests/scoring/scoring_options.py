"""Checks of what the calls that score and classify are given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Message, TextPair
from sage.common.components.sage_vllm.errors import InvalidInputError, InvalidOptionError
from sage.common.components.sage_vllm.requests.inputs import parse_prompts, parse_texts
from sage.common.components.sage_vllm.requests.sampling_options import check_on_error
from sage.common.components.sage_vllm.requests.unicode import check_unicode
from sage.common.components.sage_vllm.tokens import TokenIds
from sage.common.core.errors import nearest

_FILLED_IN = ["text", "labels"]


def check_scoring_options(
    *, on_error: object, chat_template: object = None, **flags: object
) -> None:
    """Raise InvalidOptionError for an option of a wrong type; ``flags`` are True or False."""
    check_on_error(on_error)
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidOptionError(name, value, f"{name} must be True or False, not {value!r}")
    if chat_template is not None and not isinstance(chat_template, str):
        problem = f"chat_template must be a string, not {chat_template!r}"
        raise InvalidOptionError("chat_template", chat_template, problem)


def parse_pairs(query: Any, texts: Any) -> list[TextPair]:
    """Return the query with each text, or each query with its text; raises InvalidInputError."""
    second = checked_texts(texts)
    if isinstance(query, str):
        queries = checked_texts(query, "query") * len(second)
    else:
        queries = checked_texts(query, "query")
        if len(queries) != len(second):
            problem = f"there are {len(queries)} queries and {len(second)} texts"
            raise InvalidInputError(query, problem, hint="pass one query, or one for each text")
    return list(zip(queries, second, strict=True))


def checked_texts(texts: Any, what: str = "text") -> list[str]:
    """Return texts, a string or a list of them, that have tokens; raises InvalidInputError."""
    parsed = parse_texts(texts, what)
    for index, text in enumerate(parsed):
        check_unicode(text, f"{what} {index}")
    return parsed


def parse_conversations(inputs: Any) -> list[Sequence[Message]]:
    """Return one conversation or a list of them as a list; raises InvalidInputError."""
    items = parse_prompts(inputs)
    found: list[Sequence[Message]] = []
    for index, item in enumerate(items):
        if isinstance(item.prompt, str | TokenIds) or item.options:
            problem = f"conversation {index} must be a list of messages, not {item.prompt!r}"
            hint = "pass [{'role': 'user', 'content': ...}, {'role': 'assistant', 'content': ...}]"
            raise InvalidInputError(item.prompt, problem, hint=hint)
        found.append(item.prompt)
    return found


def check_top_n(top_n: object) -> None:
    """Raise InvalidOptionError for what is no number of results."""
    if top_n is None:
        return
    if not isinstance(top_n, int) or isinstance(top_n, bool) or top_n < 1:
        problem = f"top_n must be a whole number, 1 or more, not {top_n!r}"
        raise InvalidOptionError("top_n", top_n, problem)


def check_labels(labels: Any) -> tuple[str, ...]:
    """Return labels, of which there are several; raises InvalidOptionError."""
    if isinstance(labels, str | bytes | Mapping) or not isinstance(labels, Sequence):
        problem = f"labels must be a list of strings, not {labels!r}"
        raise InvalidOptionError("labels", labels, problem)
    for label in labels:
        if not isinstance(label, str) or not label.strip():
            problem = f"a label must be a string with words, not {label!r}"
            raise InvalidOptionError("labels", labels, problem)
        try:
            check_unicode(label, "a label")
        except ValueError as error:
            raise InvalidOptionError("labels", labels, str(error)) from error
    if len(labels) < 2 or len({*labels}) < len(labels):
        problem = f"labels must be two or more that differ, not {list(labels)!r}"
        raise InvalidOptionError("labels", labels, problem)
    return tuple(labels)


def check_prompt_template(template: object) -> None:
    """Raise InvalidOptionError for what asks of no text, or names what is not filled in."""
    if not isinstance(template, str) or "{text}" not in template:
        problem = f"prompt_template must be a string with {{text}}, not {template!r}"
        raise InvalidOptionError("prompt_template", template, problem)
    for name in re.findall(r"\{(\w+)\}", template):
        if name not in _FILLED_IN:
            problem = f"prompt_template has {{{name}}}, which is not filled in"
            hint = nearest(name, _FILLED_IN)
            raise InvalidOptionError("prompt_template", template, problem, hint=hint)


def check_for_labels(**options: object) -> None:
    """Raise InvalidOptionError for an option of calls with ``labels`` that have none."""
    for name, value in options.items():
        if value is not None:
            problem = f"{name} is for a text model, and the call has no labels"
            raise InvalidOptionError(name, value, problem, hint="pass labels=[...] too")
