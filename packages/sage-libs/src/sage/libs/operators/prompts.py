"""Prompts made of a record's fields, and the system prompt before them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from string import Formatter
from typing import Any

from sage.common.components.sage_vllm.requests.inputs import are_token_ids
from sage.common.core.errors import near_name

_OF_JSON = "\"' \n\t"  # what may follow a brace in JSON, and begins no field's name


class ByItself(dict[str, Any]):
    """The fields of a record that is no dict: it is the only one, by the name it was given."""


class PromptTemplate:
    """A text with fields in braces, as ``str.format`` takes them: ``"Summarise: {text}"``.

    A field that is None, empty or blank is an error, as one that is missing is: a model would
    answer to ``"Summarise: None"`` as well. ``{text?}`` is a field that may be all of these, and
    then leaves nothing.

    ``argument`` is the name by which errors speak of the template. Raises ValueError for one that
    no record could fill; braces that are to stay are written ``{{`` and ``}}``.
    """

    def __init__(self, template: str, argument: str = "prompt_template") -> None:
        self.template = template
        self.argument = argument
        try:
            fields = tuple(dict.fromkeys(_fields(template)))
        except ValueError as error:
            raise self._unusable(str(error)) from error
        self.names = tuple(dict.fromkeys(map(_name, fields)))
        for name in self.names:
            if not name or name.isdigit():
                raise self._unusable(f"its field {{{name}}} has no name")
            if name[0] in _OF_JSON:
                raise self._unusable(f"{{{name} begins no field's name")
        self._filler = _Filler()
        self._is_plain = fields == self.names  # no more than names, each of which is needed

    def render(self, fields: Mapping[str, Any]) -> str:
        """Fill in a record's fields; raises ValueError naming the one that is missing or empty."""
        try:
            if self._is_plain and not any(is_empty(fields[name]) for name in self.names):
                return self.template.format_map(fields)  # in a tenth of the time
            return self._filler.vformat(self.template, (), fields)
        except _EmptyFieldError as error:
            raise ValueError(
                f"the record's {error.field!r} is {error.value!r}, and {self.argument} "
                f"{self.template!r} needs it; {{{error.field}?}} stands for a field that may be "
                f"empty or missing"
            ) from None
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            for name in self.names:
                if name not in fields:
                    raise self._missing(name, fields) from None
            raise ValueError(
                f"{self.argument} {self.template!r} does not fit the record: {error!r}"
            ) from error

    def _missing(self, name: str, fields: Mapping[str, Any]) -> ValueError:
        if isinstance(fields, ByItself):
            ((own, record),) = fields.items()
            return ValueError(
                f"the record is {record!r}, which has no field {name!r} as {self.argument} "
                f"{self.template!r} needs it; {{{own}}} stands for a record that is no dict"
            )
        has = sorted(map(str, fields))
        return ValueError(
            f"the record has no field {name!r}, which {self.argument} {self.template!r} names; "
            f"it has {has}{did_you_mean(name, has) or ';'} {{{{ and }}}} stand for braces that "
            f"are to stay, and {{{name}?}} for a field that may be missing"
        )

    def _unusable(self, why: str) -> ValueError:
        return ValueError(
            f"{self.argument} {self.template!r} cannot be filled in: {why}; write {{field}} for a "
            f"field of the record, and {{{{ and }}}} for braces"
        )


class _Filler(Formatter):
    """Fills in what is more than names: ``{user.name}``, and ``{text?}`` that may be empty."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return a field's value; raises _EmptyFieldError."""
        needed = field_name.removesuffix("?")
        try:
            value, key = super().get_field(needed, args, kwargs)
        except (AttributeError, LookupError, TypeError):
            if needed == field_name:
                raise
            return "", needed
        if not is_empty(value):
            return value, key
        if needed == field_name:
            raise _EmptyFieldError(field_name, value)
        return "", key

    def format_field(self, value: Any, format_spec: str) -> Any:
        """Format a value; nothing stays nothing, whatever number its format is for."""
        is_nothing = isinstance(value, str) and not value
        return "" if is_nothing else super().format_field(value, format_spec)


class _EmptyFieldError(Exception):
    def __init__(self, field: str, value: Any) -> None:
        super().__init__(field)
        self.field = field
        self.value = value


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: None, NaN, a blank text, a list or dict without items."""
    if isinstance(value, str):
        return not value or value.isspace()
    if isinstance(value, list | tuple | dict | set):
        return not value
    return value is None or (isinstance(value, float) and value != value)


def did_you_mean(name: str, names: list[str]) -> str:
    """Return which of the names is near to one that is not among them, or nothing."""
    near = near_name(name, names)
    return "" if near is None else f" - did you mean {near!r}?"


def with_system_prompt(prompt: Any, system_prompt: str | None) -> Any:
    """Return the conversation of a prompt after a system prompt.

    A conversation that begins with a system message of its own keeps that one. An empty prompt
    stays as it is: what is wrong with it is for the model's side to say. Raises ValueError for
    token ids, which are no conversation.
    """
    if system_prompt is None or not prompt or not isinstance(prompt, str | list | tuple):
        return prompt
    if are_token_ids(prompt):
        raise ValueError(
            f"token ids take no system_prompt, here {system_prompt!r}; have it in the ids, or pass "
            f"system_prompt=None"
        )
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    first = messages[0]
    if isinstance(first, Mapping) and first.get("role") == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def _fields(template: str) -> Iterator[str]:
    """Yield each field, also those within a format such as ``{text:>{width}}``."""
    for _, field, nested, _ in Formatter().parse(template):
        if field is not None:
            yield field
            yield from _fields(nested or "")


def _name(field: str) -> str:
    """Return the name of a field such as ``user.name?``."""
    return re.split(r"[.\[]", field.removesuffix("?"), maxsplit=1)[0]
