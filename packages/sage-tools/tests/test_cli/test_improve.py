"""`sage llm improve`: what becomes an example, and what is no file of answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from command_line import refused

from sage.tools.cli.errors import CommandError
from sage.tools.cli.tuning.improvement import Keys, examples_of, note_decision, write_examples

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine

RECORDS = [
    {"prompt": "2 + 2?", "answer": "5", "corrected": "4", "rating": 0},
    {"prompt": "3 + 3?", "answer": "6", "rating": 5},
    {"prompt": "4 + 4?", "answer": "8", "rating": True},
    {"prompt": "5 + 5?", "answer": "11", "rating": 0.5},
    {"prompt": "6 + 6?", "answer": "12"},
    {"prompt": [{"role": "user", "content": "7 + 7?"}], "corrected": "14"},
]


def written(folder: Path, records: list[Any]) -> Path:
    file = folder / "answers.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def test_corrections_and_good_ratings_become_examples(tmp_path: Path) -> None:
    taken = examples_of(written(tmp_path, RECORDS), Keys())
    assert (taken.corrected, taken.rated, taken.left_out) == (2, 2, 2)
    asked = [(e["messages"][0]["content"], e["messages"][1]["content"]) for e in taken.examples]
    assert asked == [("2 + 2?", "4"), ("3 + 3?", "6"), ("4 + 4?", "8"), ("7 + 7?", "14")]
    write_examples(taken, tmp_path / "new" / "examples.jsonl")
    lines = (tmp_path / "new" / "examples.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == taken.examples


def test_dead_letters_have_their_records_within(tmp_path: Path) -> None:
    letter = {
        "operator": "map-1",
        "record": {"question": "2 + 2?"},
        "error": {"type": "ValueError", "message": "no number"},
        "attempts": 1,
        "corrected": "4",
    }
    taken = examples_of(written(tmp_path, [letter]), Keys(prompt="record.question"))
    assert taken.examples[0]["messages"][0] == {"role": "user", "content": "2 + 2?"}
    with pytest.raises(CommandError, match=r"Line 1 of .* has no 'prompt'"):
        examples_of(written(tmp_path, [letter]), Keys())


def test_a_ledger_keeps_every_decision(tmp_path: Path) -> None:
    for decision in ("promoted", "kept back"):
        note_decision(tmp_path / "a" / "ledger.jsonl", {"decision": decision})
    lines = (tmp_path / "a" / "ledger.jsonl").read_text().splitlines()
    assert [json.loads(line)["decision"] for line in lines] == ["promoted", "kept back"]


def test_a_file_with_nothing_to_learn_is_refused(sage: CommandLine, tmp_path: Path) -> None:
    def run(file: Path) -> Any:
        options = ["-m", "a/b", "-o", str(tmp_path / "job"), "--as", "my/x"]
        return sage("llm", "improve", "--from", str(file), *options)

    refused(run(written(tmp_path, RECORDS[3:5])), "has nothing to learn", "--corrected-key")
    refused(run(tmp_path / "none.jsonl"), "cannot be read: No such file")
    (tmp_path / "answers.jsonl").write_text("nonsense\n")
    refused(run(tmp_path / "answers.jsonl"), "is not JSON")
    assert not (tmp_path / "job").exists()
