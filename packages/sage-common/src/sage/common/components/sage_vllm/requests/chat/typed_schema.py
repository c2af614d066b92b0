"""TypedSchema: the JSON schema of a class, which makes objects of the answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from sage.common.components.sage_vllm.errors import InvalidAnswerError, InvalidOptionError
from sage.common.core.errors import PackageNotInstalledError


class TypedSchema(dict[str, Any]):
    """The schema of a pydantic class or a dataclass; to all that reads schemas, a plain one."""

    def __init__(self, kind: type) -> None:
        adapter = _adapter(kind)
        super().__init__(adapter.json_schema())
        self.kind = kind
        self._adapter = adapter

    def __reduce__(self) -> tuple[type[TypedSchema], tuple[type]]:
        return TypedSchema, (self.kind,)

    def read(self, text: str) -> Any:
        """Return the object that a text of JSON stands for; raises InvalidAnswerError."""
        from pydantic import ValidationError

        try:
            return self._adapter.validate_json(text)
        except ValidationError as error:
            raise InvalidAnswerError(text, problems_of(error)) from None


def typed_schema(schema: Any) -> dict[str, Any]:
    """Return a dict as it is, and of a class its TypedSchema."""
    return TypedSchema(schema) if isinstance(schema, type) else schema


def is_schema(value: Any) -> bool:
    """Whether a value is a schema, or a class that has one."""
    return isinstance(value, dict) or (
        isinstance(value, type)
        and (dataclasses.is_dataclass(value) or hasattr(value, "__pydantic_core_schema__"))
    )


def parsed(text: str, schema: Mapping[str, Any]) -> Any:
    """Return the value of an answer's JSON, of a class's schema its object; None if it is cut off.

    Raises InvalidAnswerError for one that the class refuses.
    """
    try:
        value = json.loads(text)
    except ValueError:  # cut off by max_tokens or a deadline
        return None
    return schema.read(text) if isinstance(schema, TypedSchema) else value


def problems_of(error: Any) -> str:
    """Return what a ValidationError of pydantic's found, by the place of each."""
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"])))
        for each in error.errors()
    )


def _adapter(kind: type) -> Any:
    try:
        from pydantic import TypeAdapter
    except ImportError as error:
        extra = "isage-common[testing]"
        raise PackageNotInstalledError("pydantic", extra, "for classes as json_schema") from error
    from pydantic.errors import PydanticUserError

    try:
        return TypeAdapter(kind)
    except PydanticUserError as error:
        problem = f"json_schema cannot be made of {kind.__name__}: {error.message}"
        raise InvalidOptionError("json_schema", kind, problem) from error
