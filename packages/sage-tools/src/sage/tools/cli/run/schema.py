"""The JSON schema that answers have to keep to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_schema(source: str) -> dict[str, Any]:
    """Return a schema from a file, or from the JSON itself; raises ValueError for what is none."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    where, text = "the schema", source
    if not source.lstrip().startswith("{"):
        where = source
        try:
            text = Path(source).read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"cannot read {source}: {error.strerror}") from error
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {error}") from error
    if not isinstance(schema, dict):
        raise ValueError(f"{where} must be a JSON object, such as {{'type': 'object'}}")
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"{where} is no JSON schema: {error.message}") from error
    return schema
