"""The lines of a dataset: what an example is, and what keeps a line from being one."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.fine_tuning.errors import refuse_lines

Example = dict[str, Any]

Place = tuple[int, int]
"""Where an example stands: the number of its file, from 0, and that of its line, from 1."""


@dataclass(frozen=True)
class ExampleFiles:
    """The files of a dataset, which are read one after the other.

    ``field`` is the field of the request that names them.
    """

    model_id: str
    field: str
    paths: tuple[Path, ...]

    def read(self, take: Callable[[Place, Example], str | None] = lambda *_: None) -> int:
        """Hand each example over with its place, and return how many there are.

        ``take`` returns what is wrong with an example, None if nothing is. Raises
        FineTuneRequestError with all that is wrong, once everything is read.
        """
        count, problems = 0, []
        for number, path in enumerate(self.paths):
            before = count
            try:
                for line_number, line in _lines_of(path):
                    count += 1
                    place, example = (number, line_number), read_example(line)
                    problem = example if isinstance(example, str) else take(place, example)
                    if problem:
                        problems.append(f"{self.name(place)} {problem}")
            except OSError as error:
                problems.append(f"{self._subject(path, '')}cannot be read ({error.strerror})")
            else:
                if count == before:
                    problems.append(f"{self._subject(path, 'it ')}holds no examples")
        self.refuse(problems)
        return count

    def at(self, places: Collection[Place]) -> dict[Place, Example]:
        """Return the examples at these places, which ``read`` has found; it reads once more."""
        found: dict[Place, Example] = {}
        for number, path in enumerate(self.paths):
            for line_number, line in _lines_of(path):
                if (number, line_number) in places:
                    found[number, line_number] = json.loads(line)
        return found

    def name(self, place: Place) -> str:
        """Return what a place is called: its line, and its file where there are several."""
        number, line_number = place
        file = f" of {str(self.paths[number])!r}" if len(self.paths) > 1 else ""
        return f"line {line_number}{file}"

    def short_name(self, place: Place) -> int | str:
        """Return the number of a place's line, or where there are several files, its name."""
        return place[1] if len(self.paths) == 1 else self.name(place)

    def refuse(self, problems: Sequence[str], hint: str | None = None) -> None:
        """Raise FineTuneRequestError if there are any problems."""
        one = len(self.paths) == 1
        where = repr(str(self.paths[0])) if one else f"of {len(self.paths)} files"
        refuse_lines(self.model_id, self.field, where, problems, hint)

    def _subject(self, path: Path, alone: str) -> str:
        return alone if len(self.paths) == 1 else f"{str(path)!r} "


def _lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the text of each line that is not blank."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line


def read_example(line: bytes) -> Example | str:
    """Return the example of a line, or what keeps the line from being one."""
    try:
        example = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}"
    if not isinstance(example, dict):
        return f"must be an object, not {line.decode(errors='replace').strip()[:40]}"
    return _problem_with(example) or example


def _problem_with(example: Example) -> str | None:
    if "chosen" in example or "rejected" in example:
        return _problem_with_preference(example)
    if "messages" in example:
        return problem_with_turns(example["messages"], "messages")
    if "prompt" in example or "completion" in example:
        has_both = all(_is_text_or_turns(example.get(name)) for name in ("prompt", "completion"))
        return None if has_both else "needs both a prompt and a completion, as strings"
    if isinstance(example.get("text"), str):
        return None
    return "needs messages, a prompt and a completion, or a text"


def _problem_with_preference(example: Example) -> str | None:
    if not all(_is_text_or_turns(example.get(name)) for name in ("chosen", "rejected")):
        return "needs both a chosen and a rejected answer, as strings or lists of turns"
    if "prompt" in example and not _is_text_or_turns(example["prompt"]):
        return "needs a prompt that is a string or a list of turns"
    if "prompt" not in example and isinstance(example["chosen"], str):
        return "needs a prompt for its chosen and rejected answers"
    return None


def problem_with_turns(turns: Any, name: str) -> str | None:
    """Return what keeps a value from being a list of turns; ``name`` is its key."""
    if not isinstance(turns, list) or not turns:
        return f"must have a list of turns as its {name}"
    bad = next((number for number, turn in enumerate(turns, 1) if not _is_turn(turn)), None)
    return f"needs a role and a content in turn {bad} of its {name}" if bad else None


def _is_text_or_turns(value: Any) -> bool:
    return isinstance(value, str) or problem_with_turns(value, "") is None


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and "content" in turn
