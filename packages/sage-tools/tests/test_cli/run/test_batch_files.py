"""`sage llm run --input --output`: answers and vectors in files, bad lines, runs that stopped."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from command_line import TIMEOUT, lines, refused

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine

CHAT = "test/tiny-chat"
SHORT = ("-t", "0", "--max-tokens", "4", "--quiet")


@pytest.fixture
def root(model_root: Path) -> Path:
    return model_root


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """An input and an output."""
    return str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")


def write(path: str, records: list[Any]) -> None:
    with open(path, "w") as file:  # noqa: PTH123 - a name is what the command gets
        file.writelines(f"{json.dumps(record)}\n" for record in records)


def read(path: str) -> list[Any]:
    with open(path) as file:  # noqa: PTH123 - as above
        return [json.loads(line) for line in file]


def run(source: str, output: str, *options: str) -> list[str]:
    return ["llm", "run", CHAT, "--input", source, "--output", output, *options]


def test_each_record_gets_its_answer_and_a_second_run_says_that_all_is_done(
    sage: CommandLine, files: tuple[str, str], tmp_path: Path
) -> None:
    source, output = files
    turns = [{"role": "user", "content": "one"}]
    write(
        source,
        [
            "one",
            {"id": 7, "prompt": "one"},
            {"messages": turns},
            turns,
            {"prompt": "two", "options": {"max_tokens": 2}},
            {"prompt": "word " * 600},
        ],
    )
    done = sage(*run(source, output, *SHORT, "--json"))
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"output": output, "records": 6, "failed": 1}
    assert "1 of 6 records failed" in done.stderr
    assert "Traceback" not in done.stderr
    answers = read(output)
    assert [sorted(answer) for answer in answers] == [
        ["generated", "generation", "prompt"],
        ["generated", "generation", "id", "prompt"],
        ["generated", "generation", "messages"],
        ["generated", "generation", "prompt"],
        ["generated", "generation", "options", "prompt"],
    ]
    assert len({answer["generated"] for answer in answers[:4]}) == 1  # each as a conversation
    assert [answer["generation"]["tokens_used"]["completion"] for answer in answers] == [
        *(4, 4, 4, 4, 2),
    ]
    (failure,) = read(f"{output}.failed")
    assert "512 tokens" in failure["error"]["message"]
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == [
        *("in.jsonl", "out.jsonl", "out.jsonl.failed", "out.jsonl.run"),
    ]
    again = sage(*run(source, output, *SHORT[:-1]))
    assert (again.returncode, again.stdout) == (1, "")
    assert f"{output} is complete already, 6 records" in again.stderr
    assert "Loading" not in again.stderr
    assert read(output) == answers


def test_a_run_that_was_stopped_goes_on(
    sage: CommandLine, files: tuple[str, str], tmp_path: Path
) -> None:
    source, output = files
    write(source, [{"id": n, "prompt": f"number {n}"} for n in range(2000)])
    options = ("-t", "0", "--max-tokens", "24")  # long enough to be stopped in the middle
    terminal = sage.terminal(*run(source, output, *options))
    terminal.read_until("of 2,000")
    while not _written(tmp_path):
        terminal.read_more(1)
    terminal.type("\x03")
    assert terminal.finish() == 130
    assert "Run the same command again to go on where it was." in terminal.text
    written = _written(tmp_path)
    assert 0 < written < 2000
    other = sage(*run(source, output, "-t", "0", "--max-tokens", "3"))
    refused(other, "max_tokens", "--overwrite")
    asked = (tmp_path / "in.jsonl").read_text()
    write(source, [{"id": n, "prompt": f"another {n}"} for n in range(2000)])
    refused(sage(*run(source, output, *options)), "input changed", "is another than before")
    (tmp_path / "in.jsonl").write_text(f'{asked}{{"id": 2000, "prompt": "added"}}')
    refused(sage(*run(source, output, *options)), "its input grew", "--input-grew")
    done = sage(*run(source, output, *options, "--input-grew"))
    assert lines(done) == []
    (ended,) = re.findall(r"run: ended after .*: ([\d,]+) read, ([\d,]+) written", done.stderr)
    # What is written after the last commit is done once more.
    assert 2001 - written <= int(ended[1].replace(",", "")) < 2001
    assert [record["id"] for record in read(output)] == list(range(2001))
    assert sorted(file.name for file in tmp_path.glob("*.jsonl*")) == [
        *("in.jsonl", "out.jsonl", "out.jsonl.run"),
    ]


def _written(folder: Path) -> int:
    partial = folder / "out.jsonl.partial"
    return len(partial.read_bytes().splitlines()) if partial.exists() else 0


def test_only_the_run_that_made_an_output_is_told_that_all_is_done(
    sage: CommandLine, files: tuple[str, str], tmp_path: Path
) -> None:
    source, output = files
    write(source, ["one", "two"])
    write(output, [{"precious": 1}, {"precious": 2}])  # as many as the input has
    refused(sage(*run(source, output, *SHORT)), "nothing says which run made it", "--overwrite")
    assert read(output) == [{"precious": 1}, {"precious": 2}]
    assert lines(sage(*run(source, output, *SHORT, "--overwrite"))) == []
    assert "complete already" in sage(*run(source, output, *SHORT[:-1])).stderr
    answers = read(output)
    base = sage("llm", "run", "test/tiny-base", *run(source, output, *SHORT)[3:])
    refused(base, "another model and another commit", "--overwrite")
    for others, said in (
        (["--max-tokens", "5"], "another set of sampling options"),
        (["--system", "Be brief."], "another system prompt"),
        (["--dtype", "float32"], "another set of engine options"),
    ):
        refused(sage(*run(source, output, *SHORT, *others)), said, "--overwrite")
    write(source, ["one", "three"])
    refused(sage(*run(source, output, *SHORT)), "another input", "--overwrite")
    write(source, ["one", "two"])
    assert read(output) == answers
    write(output, [answers[1], answers[0]])
    refused(sage(*run(source, output, *SHORT)), "changed since", "--overwrite")
    (tmp_path / "out.jsonl.run").write_text("[]")
    refused(sage(*run(source, output, *SHORT)), "nothing says", "--overwrite")


def test_overwrite_begins_anew_and_vectors_come_in_files_too(
    sage: CommandLine, files: tuple[str, str]
) -> None:
    source, output = files
    write(source, ["one", {"id": 2, "text": "two"}, {"prompt": "three"}])
    write(output, [{"from": "another run"}])
    refused(sage(*run(source, output, "--embed")), "nothing says which", "--overwrite")
    assert read(output) == [{"from": "another run"}]
    assert lines(sage(*run(source, output, "--embed", "--overwrite", "--quiet"))) == []
    records = read(output)
    assert [sorted(record) for record in records] == [
        ["embedding", "text"],
        ["embedding", "id", "text"],
        ["embedding", "prompt"],
    ]
    assert {len(record["embedding"]) for record in records} == {64}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('\n\n{"prompt"}\n', "in.jsonl, line 3: no JSON"),
        ('{"question": "b"}\n', "line 1: it has no 'prompt' and no 'messages'"),
        ('{"prompt": ""}\n', "line 1: '' is nothing to work on"),
        ('[{"prompt": "a"},\n{"prompt": "b"}]\n', "The file is one JSON array; write a record"),
        ("7\n", "line 1: 7 is nothing to work on"),
        ("[]\n" * 9, "and 4 more"),
        ("[]\n" * 120, "and 95 more of the first 100"),
    ],
)
def test_an_input_that_is_none_is_refused_before_anything_is_loaded(
    text: str, said: str, sage: CommandLine, files: tuple[str, str], tmp_path: Path
) -> None:
    source, output = files
    (tmp_path / "in.jsonl").write_text(text)
    done = sage(*run(source, output))
    refused(done, said)
    assert "Loading" not in done.stderr


def test_files_that_cannot_be(sage: CommandLine, files: tuple[str, str], tmp_path: Path) -> None:
    source, output = files
    refused(sage(*run(source, output)), source, "--input")
    write(source, ["a"])
    refused(sage(*run(source, "/proc/nowhere/out.jsonl")), "/proc/nowhere", "can write")
    refused(sage(*run(source, f"{source}/out.jsonl")), source, "can write")
    refused(sage(*run(source, str(tmp_path))), "folder")
    refused(sage(*run(source, source)), "--output")


def test_a_template_makes_the_prompts(
    sage: CommandLine, files: tuple[str, str], tmp_path: Path
) -> None:
    source, output = files
    write(source, [{"id": 1, "text": "one"}, {"id": 2}, "plain"])
    template = ("--template", "{{Say}} {text}")
    refused(sage(*run(source, output, "--template", "{")), "'{'", "{{ and }}", code=2)
    refused(sage("llm", "run", CHAT, "-p", "x", *template), "--template", code=2)
    done = sage(*run(source, output, *template, *SHORT, "--json"))
    assert json.loads(done.stdout) == {"output": output, "records": 3, "failed": 2}
    (answer,) = read(output)
    assert (answer["id"], answer["text"]) == (1, "one")
    first, second = read(f"{output}.failed")
    assert (first["record"]["line"], second["record"]["line"]) == (2, 3)
    assert "line 2: the record has no field 'text', which --template" in first["error"]["message"]
    write(source, [{"id": 1, "prompt": "{Say} one"}])
    other = str(tmp_path / "other.jsonl")
    lines(sage(*run(source, other, *SHORT)))
    assert read(other)[0]["generated"] == answer["generated"]


COUNTING = """
import sys
from sage.libs.io import text_lines
from sage.tools.cli.main import main
from sage.tools.cli.run.loading import ShownService

lines = []
original = text_lines.open_unpacked
setup = ShownService.setup


class Counted:
    def __init__(self, path):
        self.opened = original(path)

    def __enter__(self):
        self.file = self.opened.__enter__()
        return self

    def __exit__(self, *error):
        return self.opened.__exit__(*error)

    def peek(self, count):
        return self.file.peek(count)

    def __iter__(self):
        for line in self.file:
            lines.append(line)
            yield line


def loading(self):
    print("lines before it was loaded:", len(lines), file=sys.stderr)
    setup(self)


text_lines.open_unpacked = Counted
ShownService.setup = loading
main()
"""


def test_the_input_is_read_once_before_the_model_is_loaded(
    sage: CommandLine, files: tuple[str, str]
) -> None:
    source, output = files
    write(source, [f"number {n}" for n in range(300)])
    with open(source, "a") as file:  # noqa: PTH123 - as above
        file.write("\n")
    command = run(source, output, "-t", "0", "--max-tokens", "1")
    done = subprocess.run(
        [sys.executable, "-c", COUNTING, *command],
        env=sage.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "lines before it was loaded: 302\n" in done.stderr  # all of them, and a look at one
    assert "300 read, 300 written" in done.stderr
    assert "is complete already, 300 records" in sage(*command).stderr
