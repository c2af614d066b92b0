"""The lines of a dataset: what an example is, and what keeps a line from being one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.fine_tuning.errors import refuse_lines

Example = dict[str, Any]


def examples_of(file: Path) -> Iterator[tuple[int, Example | str]]:
    """Yield each line that is not blank: its number, and its example or what is wrong with it."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, read_example(line)


def count_examples(model_id: str, field: str, file: Path) -> int:
    """Check every line of a dataset and return how many examples it has.

    Raises FineTuneRequestError, which names the lines that are none.
    """
    count, wrong = 0, []
    try:
        for number, found in examples_of(file):
            count += 1
            if isinstance(found, str):
                wrong.append(f"line {number} {found}")
    except OSError as error:
        wrong.append(f"cannot be read ({error.strerror})")
    if not count and not wrong:
        wrong.append("it holds no examples")
    refuse_lines(model_id, field, file, wrong)
    return count


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
