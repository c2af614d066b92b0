"""The records of an input file: checked before a model is loaded, then made into prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sage.common.core.functions import MapFunction
from sage.libs.io import JSONLSource
from sage.libs.io.input_files import input_files
from sage.tools.cli.errors import CommandError

_MOST_SHOWN = 5


class CountedJSONLSource(JSONLSource):
    """A JSONLSource that knows how many records it has, so that progress can be told."""

    def __init__(self, path: Path, length: int) -> None:
        super().__init__(path)
        self._length = length

    def __len__(self) -> int:
        return self._length


class PromptOf(MapFunction):
    """Makes ``[record, prompt]``; a plain prompt becomes a conversation if the model has them."""

    keys = ("messages", "prompt")

    def __init__(self, service_name: str, *, model_id: str) -> None:
        self._service_name = service_name
        self._model_id = model_id
        self._converses: bool | None = None

    def execute(self, record: Any) -> Any:
        """Return the record and its prompt."""
        if self._converses is None:
            engine = self.call_service(self._service_name, method="stats")["engine"]
            self._converses = bool(engine["chat_templates"])
        fields, prompt = _fields_and_input(record, self.keys)
        if isinstance(prompt, str) and prompt and self._converses:
            prompt = [{"role": "user", "content": prompt}]
        return [fields, prompt]


class TextOf(MapFunction):
    """Makes ``[record, text]``."""

    keys = ("text", "prompt")

    def __init__(self, *, model_id: str) -> None:
        self._model_id = model_id

    def execute(self, record: Any) -> Any:
        """Return the record and its text."""
        return list(_fields_and_input(record, self.keys))


def count_records(path: Path, keys: Sequence[str]) -> int:
    """How many records a file has; raises CommandError that names the lines which are none."""
    count, bad = 0, []
    for file in _files(path):
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.isspace():
                    continue
                count += 1
                problem = _problem(line, keys)
                if problem is not None:
                    bad.append(f"{file}, line {number}: {problem}")
    if not bad:
        return count
    more = f"; and {len(bad) - _MOST_SHOWN:,} more" if len(bad) > _MOST_SHOWN else ""
    named = " or ".join(f'"{key}"' for key in reversed(keys))
    raise CommandError(
        f"{'; '.join(bad[:_MOST_SHOWN])}{more}",
        f"A line is a text or an object with {named}, as JSON. Nothing was run.",
    )


def _files(path: Path) -> list[Path]:
    try:
        return input_files(path, ".jsonl")
    except FileNotFoundError as error:
        raise CommandError(str(error), "Name a JSON Lines file with --input.") from error


def _problem(line: bytes, keys: Sequence[str]) -> str | None:
    try:
        record = json.loads(line.decode())
    except ValueError as error:
        return f"no JSON: {error}"
    if isinstance(record, Mapping) and not any(key in record for key in keys):
        return f"it has no {' and no '.join(repr(key) for key in reversed(keys))}"
    _, value = _fields_and_input(record, keys)
    if isinstance(value, str) and value:
        return None
    if isinstance(value, list) and value and "messages" in keys:
        return None
    return f"{value!r} is nothing to work on"


def _fields_and_input(record: Any, keys: Sequence[str]) -> tuple[Any, Any]:
    """A record as a dict, and what the model is to work on: the first of the keys that it has."""
    if isinstance(record, Mapping):
        key = next((key for key in keys if key in record), keys[0])
        return record, record.get(key)
    key = keys[0] if isinstance(record, list) else keys[-1]
    return {key: record}, record
