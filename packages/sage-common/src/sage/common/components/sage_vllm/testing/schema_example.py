"""SchemaExample: a value that a JSON schema allows, made of its keywords."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from sage.common.components.sage_vllm.testing.regex_example import regex_example

_FORMATS = {
    "date": "2024-01-31",
    "date-time": "2024-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "ada@example.org",
    "hostname": "example.org",
    "ipv4": "192.0.2.1",
    "uri": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_DEEP = 4  # from here on, what is optional is left out, so that schemas that contain themselves end
_DEEPEST = 24


class SchemaExample:
    """Makes an example of a schema: every property, one item, the first choice, small numbers.

    Strings say ``words``, cut or filled up to the schema's lengths. It goes by the keywords that
    say what a value is; those that only forbid values (``not``, ``uniqueItems``, ``if``) it does
    not look at, so that whoever uses it checks what comes out.
    """

    def __init__(self, schema: Mapping[str, Any], words: str) -> None:
        self._root = schema
        self._words = words

    def make(self) -> Any:
        """Return the value; raises ValueError for a schema that it cannot follow."""
        return self._value(self._root, 0)

    def _value(self, schema: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("it contains itself without an end")
        if schema is True:
            return self._words
        if not isinstance(schema, Mapping):
            raise ValueError(f"nothing fits {schema!r}")
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._first_that_ends(schema, keyword, depth)
        return self._of_type(_type_of(schema), schema, depth)

    def _first_that_ends(self, schema: Mapping[str, Any], keyword: str, depth: int) -> Any:
        rest = {name: value for name, value in schema.items() if name != keyword}
        choices = schema[keyword]
        for choice in choices if depth < _DEEP else reversed(choices):  # null is mostly the last
            try:
                return self._value(_merged(rest, self._resolved(choice)), depth + 1)
            except ValueError as error:
                last = error
        raise last

    def _of_type(self, kind: Any, schema: Mapping[str, Any], depth: int) -> Any:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._string(schema)
            case "integer" | "number":
                return _number(schema, step=1 if kind == "integer" else None)
            case "boolean":
                return True
            case "null":
                return None
        raise ValueError(f"there is no type {kind!r}")

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        required = list(schema.get("required", []))
        properties = dict(schema.get("properties", {}))
        for name in required:  # named there alone
            properties.setdefault(name, schema.get("additionalProperties", True))
        wanted = properties if depth < _DEEP else required
        return {name: self._value(properties[name], depth + 1) for name in wanted}

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        first = list(schema.get("prefixItems", []))
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        count = min(max(least, len(first) or (1 if depth < _DEEP else 0)), most)
        kinds = [*first, *[schema.get("items", True)] * (count - len(first))][:count]
        return [self._value(kind, depth + 1) for kind in kinds]

    def _string(self, schema: Mapping[str, Any]) -> str:
        if "pattern" in schema:
            return regex_example(schema["pattern"].removeprefix("^").removesuffix("$"))
        words: str = _FORMATS.get(schema.get("format", ""), self._words)
        return words[: schema.get("maxLength")].ljust(schema.get("minLength", 0), "x")

    def _resolved(self, schema: Any) -> Any:
        """Return the schema with what ``$ref`` and ``allOf`` refer to in their places."""
        seen: list[str] = []
        while isinstance(schema, Mapping) and ("$ref" in schema or "allOf" in schema):
            rest = {name: v for name, v in schema.items() if name not in ("$ref", "allOf")}
            parts = list(schema.get("allOf", []))
            if "$ref" in schema:
                if schema["$ref"] in seen:
                    raise ValueError(f"{schema['$ref']} refers to itself")
                seen.append(schema["$ref"])
                parts.append(self._referred(schema["$ref"]))
            for part in parts:
                rest = _merged(rest, part)
            schema = rest
        return schema

    def _referred(self, reference: str) -> Any:
        if not reference.startswith("#"):
            raise ValueError(f"{reference} is not in it")
        found: Any = self._root
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                raise ValueError(f"{reference} is not in it")
            found = found[name]
        return found


def _merged(schema: Mapping[str, Any], other: Any) -> dict[str, Any]:
    if other is True:
        return dict(schema)
    if not isinstance(other, Mapping):
        raise ValueError(f"nothing fits {other!r}")
    merged = {**schema, **other}
    if "properties" in schema and "properties" in other:
        merged["properties"] = {**schema["properties"], **other["properties"]}
    if "required" in schema and "required" in other:
        merged["required"] = list(dict.fromkeys([*schema["required"], *other["required"]]))
    return merged


def _type_of(schema: Mapping[str, Any]) -> Any:
    named = schema.get("type")
    if named is not None:
        return named[0] if isinstance(named, list) else named
    if {"properties", "required", "additionalProperties"} & schema.keys():
        return "object"
    if {"items", "prefixItems", "minItems"} & schema.keys():
        return "array"
    if {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"} & schema.keys():
        return "number"
    return "string"


def _number(schema: Mapping[str, Any], *, step: int | None) -> float:
    """Return the simplest number between the bounds, a multiple where one is asked for."""
    step = schema.get("multipleOf", step)
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
    for value in _simple_numbers(low, high, step):
        above = value >= low and value > schema.get("exclusiveMinimum", -math.inf)
        below = value <= high and value < schema.get("exclusiveMaximum", math.inf)
        if above and below:
            return int(value) if value == int(value) else value
    raise ValueError(f"no number is found between {low} and {high}")


def _simple_numbers(low: float, high: float, step: float | None) -> Iterator[float]:
    yield 0
    if step is not None:
        if low > -math.inf:
            yield from (math.ceil(low / step) * step, (math.floor(low / step) + 1) * step)
        if high < math.inf:
            yield from (math.floor(high / step) * step, (math.ceil(high / step) - 1) * step)
        return
    yield from (bound for bound in (low, low + 1, high, high - 1) if math.isfinite(bound))
    if math.isfinite(low) and math.isfinite(high):
        yield (low + high) / 2
