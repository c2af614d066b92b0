"""A model's chat template, rendered as transformers renders it, and so as vLLM does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

Turn = Mapping[str, Any]

# vLLM hands a content over as a list of parts where the template walks over them.
_WALKS_OVER_PARTS = re.compile(
    r"\{%-?\s*for\s+\w+\s+in\s+\w+(?:\.content|\[['\"]content['\"]\])\s*-?%\}"
)
_TRAINED_ONLY = ("train", "weight")  # keys of a turn that are for us, not for the template


class TemplateRefusalError(ValueError):
    """The template refuses a conversation, such as one with two turns of the user in a row."""


class ChatTemplate:
    """A Jinja template of a conversation.

    Args:
        source: the template.
        named_tokens: ``bos_token`` and so on, which it may write.
    """

    def __init__(self, source: str, named_tokens: Mapping[str, str]) -> None:
        self._template = _environment().from_string(source)
        self._named_tokens = dict(named_tokens)
        self._takes_parts = _WALKS_OVER_PARTS.search(source) is not None

    def render(
        self, turns: Sequence[Turn], tools: Any = None, *, for_an_answer: bool = False
    ) -> str:
        """Return the text of turns; ``for_an_answer`` adds what an answer follows.

        Raises TemplateRefusalError.
        """
        import jinja2

        try:
            text: str = self._template.render(
                messages=[self._turn(turn) for turn in turns],
                tools=tools,
                documents=None,
                add_generation_prompt=for_an_answer,
                **self._named_tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise TemplateRefusalError(str(error)) from error
        return text

    def _turn(self, turn: Turn) -> dict[str, Any]:
        shown = {key: value for key, value in turn.items() if key not in _TRAINED_ONLY}
        if isinstance(shown.get("content"), list | str):
            text = text_of_content(shown["content"])
            shown["content"] = [{"type": "text", "text": text}] if self._takes_parts else text
        return shown


def text_of_content(content: Any) -> str:
    """Return a turn's content as a text; a list of parts is joined as vLLM joins it."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _environment() -> Any:
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):  # type: ignore[misc]  # Jinja is Any here
        """``{% generation %}``, by which a template marks answers: here it only shows them."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.CallBlock(self.call_method("_shown"), [], [], body).set_lineno(line)

        def _shown(self, caller: Any) -> str:
            return str(caller())

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,  # noqa: FBT001 - templates pass it by position too
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,  # noqa: FBT001
    ) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
