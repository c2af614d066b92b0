"""Prompts made of a record's fields, and the system prompt before them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from string import Formatter
from typing import Any

_OF_JSON = "\"' \n\t"  # what may follow a brace in JSON, and begins no field's name


class PromptTemplate:
    """A text with fields in braces, as ``str.format`` takes them: ``"Summarise: {text}"``.

    ``argument`` is the name by which errors speak of it. Raises ValueError for a template that no
    record could fill; braces that are to stay are written ``{{`` and ``}}``.
    """

    def __init__(self, template: str, argument: str = "prompt_template") -> None:
        self.template = template
        self.argument = argument
        try:
            self.names = tuple(dict.fromkeys(_names(template)))
        except ValueError as error:
            raise self._unusable(str(error)) from error
        for name in self.names:
            if not name or name.isdigit():
                raise self._unusable(f"its field {{{name}}} has no name")
            if name[0] in _OF_JSON:
                raise self._unusable(f"{{{name} begins no field's name")

    def render(self, fields: Mapping[str, Any]) -> str:
        """Fill in a record's fields; raises ValueError naming the one that is missing."""
        for name in self.names:
            if name not in fields:
                raise ValueError(
                    f"the record has no field {name!r}, which {self.argument} "
                    f"{self.template!r} names; it has {sorted(map(str, fields))}"
                    f"; {{{{ and }}}} stand for braces that are to stay"
                )
        try:
            return self.template.format_map(fields)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.argument} {self.template!r} does not fit the record: {error!r}"
            ) from error

    def _unusable(self, why: str) -> ValueError:
        return ValueError(
            f"{self.argument} {self.template!r} cannot be filled in: {why}; write {{field}} for a "
            f"field of the record, and {{{{ and }}}} for braces"
        )


def with_system_prompt(prompt: Any, system_prompt: str | None) -> Any:
    """Return the conversation of a prompt after a system prompt.

    A conversation that begins with a system message of its own keeps that one. An empty prompt
    stays as it is: what is wrong with it is for the model's side to say.
    """
    if system_prompt is None or not prompt or not isinstance(prompt, str | list | tuple):
        return prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    first = messages[0]
    if isinstance(first, Mapping) and first.get("role") == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def _names(template: str) -> Iterator[str]:
    """Yield the name of each field, also of those within a format such as ``{text:>{width}}``."""
    for _, field, nested, _ in Formatter().parse(template):
        if field is not None:
            yield re.split(r"[.\[]", field, maxsplit=1)[0]
            yield from _names(nested or "")
