"""From a pipeline's answers to examples: what people corrected, and what they rated well."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sage.tools.cli.errors import CommandError


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Where a record has what; a key of a record within it is written ``record.question``."""

    prompt: str = "prompt"
    answer: str = "answer"
    corrected: str = "corrected"
    rating: str = "rating"
    least_rating: float = 1.0


@dataclass(kw_only=True)
class Taken:
    """The examples that were found, and how many of each kind."""

    examples: list[dict[str, Any]] = field(default_factory=list)
    corrected: int = 0
    rated: int = 0
    left_out: int = 0


def examples_of(file: Path, keys: Keys) -> Taken:
    """Return the examples in a file of answers; raises CommandError for what is not such a file.

    A correction is taken before a rating; what has neither, or a low rating, is left out.
    """
    taken = Taken()
    for number, record in _records(file):
        prompt = _value(record, keys.prompt)
        if not isinstance(prompt, str | list) or not prompt:
            raise CommandError(
                f"Line {number} of {file} has no {keys.prompt!r}.",
                "Name the key of the prompts with --prompt-key, such as record.question.",
            )
        corrected, rating = _value(record, keys.corrected), _value(record, keys.rating)
        if isinstance(corrected, str) and corrected:
            taken.corrected += 1
            answer = corrected
        elif _is_good(rating, keys.least_rating) and isinstance(_value(record, keys.answer), str):
            taken.rated += 1
            answer = str(_value(record, keys.answer))
        else:
            taken.left_out += 1
            continue
        turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        taken.examples.append({"messages": [*turns, {"role": "assistant", "content": answer}]})
    if not taken.examples:
        raise CommandError(
            f"{file} has nothing to learn: no line has {keys.corrected!r}, or {keys.rating!r} of "
            f"{keys.least_rating:g} or more.",
            "Correct or rate some answers, or name the keys with --corrected-key and --rating-key.",
        )
    return taken


def write_examples(taken: Taken, file: Path) -> None:
    """Write examples as a dataset."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as lines:
        for example in taken.examples:
            lines.write(json.dumps(example, ensure_ascii=False) + "\n")


def note_decision(ledger: Path, decision: Mapping[str, Any]) -> None:
    """Append a decision to a ledger, a line of JSON each."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    at = datetime.now(tz=UTC).isoformat(timespec="seconds")
    with ledger.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"at": at, **decision}) + "\n")


def _records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise ValueError(f"it must be an object, not {line.strip()[:40]}")  # noqa: TRY301
                    yield number, record
    except OSError as error:
        hint = "Name a file of JSON Lines with answers."
        raise CommandError(f"{file} cannot be read: {error.strerror}.", hint) from error
    except ValueError as error:
        hint = "Each line must be an object with a prompt and an answer."
        raise CommandError(f"A line of {file} is not JSON: {error}.", hint) from error


def _value(record: Mapping[str, Any], key: str) -> Any:
    found: Any = record
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _is_good(rating: Any, least: float) -> bool:
    if isinstance(rating, bool):
        return rating
    return isinstance(rating, int | float) and rating >= least
