"""`sage llm run --retry-failed`: bad lines are put aside, and run again where they belong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_line import lines, refused

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.tools.cli.run.batch import missing_lines
from sage.tools.cli.run.batch.finished_run import FinishedRun
from sage.tools.cli.run.batch.line_task import LineTask
from sage.tools.cli.run.batch.missing_lines import MissingLines, finish_merge
from sage.tools.cli.run.batch.run_files import RunFiles

if TYPE_CHECKING:
    from command_line import CommandLine

CHAT = "test/tiny-chat"
LINES = {
    1: '{"id": 0, "prompt": "one"}',
    2: '{"id": 1, "prompt": broken}',
    3: "",
    4: '{"id": 2, "prompt": "two"}',
    5: json.dumps({"id": 3, "prompt": "word " * 600}),
    6: '{"id": 4, "question": "x"}',
    7: '{"id": 5, "prompt": "five"}',
}
MENDED = {2: '{"id": 1, "prompt": "mended"}', 6: '{"id": 4, "prompt": "x"}'}
# In full precision, so that what else is in a batch changes no text.
OPTIONS = ("--dtype", "float32", "-t", "0", "--max-tokens", "4", "--quiet", "--json")


@pytest.fixture
def root(model_root: Path) -> Path:
    return model_root


def write(path: Path, text: dict[int, str]) -> None:
    path.write_text("".join(f"{line}\n" for line in text.values()))


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_bad_lines_are_put_aside_and_only_they_are_run_again(
    sage: CommandLine, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    failed = tmp_path / "out.jsonl.failed"
    run = ("llm", "run", CHAT, "-i", str(source), "-o", str(output), *OPTIONS)

    def ran(records: int, failures: int, *more: str) -> str:
        done = sage(*run, *more)
        assert done.returncode == (1 if failures else 0), done.stderr
        report = {"output": str(output), "records": records, "failed": failures}
        assert json.loads(done.stdout) == report
        assert "Traceback" not in done.stderr
        return done.stderr

    write(source, LINES)
    refused(sage(*run, "--retry-failed"), "not at its end", "without --retry-failed")
    assert "3 of 6 records failed" in ran(6, 3)
    assert [record["id"] for record in read(output)] == [0, 2, 5]
    letters = {letter["record"]["line"]: letter for letter in read(failed)}
    assert sorted(letters) == [2, 5, 6]
    assert letters[2]["record"]["text"] == LINES[2]
    assert f"{source}, line 2: no JSON" in letters[2]["error"]["message"]
    assert letters[6]["record"]["record"] == {"id": 4, "question": "x"}
    assert "line 6: it has no 'prompt'" in letters[6]["error"]["message"]
    answers = output.read_bytes()

    assert "--retry-failed runs these again" in ran(6, 3, "--retry-failed")  # as they were
    assert output.read_bytes() == answers
    assert [letter["record"]["line"] for letter in read(failed)] == [2, 5, 6]

    write(source, {**LINES, **MENDED})
    refused(sage(*run), "another input", "--retry-failed")
    write(source, {**LINES, **MENDED, 4: LINES[1]})
    refused(sage(*run, "--retry-failed"), "lines other than those that failed")
    write(source, {0: "", **LINES, **MENDED})
    refused(sage(*run, "--retry-failed"), "lines other than those that failed")
    write(source, {**LINES, **MENDED})
    refused(sage(*run, "--retry-failed", "--max-tokens", "5"), "another set of sampling options")
    assert output.read_bytes() == answers
    ran(6, 1, "--retry-failed")
    assert [record["id"] for record in read(output)] == [0, 1, 2, 4, 5]
    (letter,) = read(failed)
    assert (letter["record"]["path"], letter["record"]["line"]) == (str(source), 5)

    write(source, {**LINES, **MENDED, 5: '{"id": 3, "prompt": "short"}'})
    ran(6, 0, "--retry-failed")
    assert [record["id"] for record in read(output)] == [0, 1, 2, 3, 4, 5]
    assert [json.loads(line) for line in answers.splitlines()] == [
        record for record in read(output) if record["id"] in (0, 2, 5)
    ]
    assert sorted(path.name for path in tmp_path.glob("*.jsonl*")) == [
        *("in.jsonl", "out.jsonl", "out.jsonl.run"),
    ]
    ran(6, 0)
    assert "nothing to run again" in sage(*run[:-2], "--retry-failed").stderr
    refused(sage(*run, "--retry-failed", "--overwrite"), "give one of them", code=2)
    whole = tmp_path / "whole.jsonl"
    lines(sage("llm", "run", CHAT, "-i", str(source), "-o", str(whole), *OPTIONS))
    assert [record["generated"] for record in read(whole)] == [
        record["generated"] for record in read(output)
    ]


def test_killed_at_every_line_of_merging_nothing_is_lost_or_twice(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_VLLM_MODEL_ROOT", str(root))
    before = tmp_path / "before"
    before.mkdir()
    source = tmp_path / "in.jsonl"
    write(source, {**LINES, **MENDED})
    letters = [{"record": {"path": str(source), "line": number}} for number in (2, 5, 6)]
    (before / "out.jsonl").write_text('{"id": 0}\n{"id": 2}\n{"id": 5}\n')
    (before / "out.jsonl.failed").write_text("".join(f"{json.dumps(each)}\n" for each in letters))
    config = VLLMServiceConfig(model_id=CHAT)
    task = LineTask.of(config, system=None, query=None, labels=None)
    made_by = FinishedRun(config, source, task=task, template=None)
    made_by.write(RunFiles(before / "out.jsonl"))

    def retry_of(files: RunFiles) -> MissingLines:
        return MissingLines(source, files, failed=True, added=False)

    retry = retry_of(RunFiles(before / "out.jsonl"))
    retry.begin()
    assert retry.source.read_text().splitlines() == [MENDED[2], LINES[5], MENDED[6]]
    source.write_text(source.read_text().replace("mended", "mended anew"))
    retry.files.output.write_text("stale")
    retry = retry_of(RunFiles(before / "out.jsonl"))
    retry.begin()
    assert "anew" in retry.source.read_text()
    assert not retry.files.output.exists()
    retry.files.output.write_text('{"id": 1}\n{"id": 4}\n')
    retry.files.failed.write_text(f"{json.dumps(letters[1])}\n")

    for step in range(1, 1000):
        folder = tmp_path / "now"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        files = RunFiles(folder / "out.jsonl")
        pid = os.fork()
        if pid == 0:
            _kill_at(step)
            retry_of(files).merge(made_by)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        finish_merge(files)  # as every run begins
        if files.missing.exists():
            assert files.output.read_bytes() == (before / "out.jsonl").read_bytes()
            retry_of(files).merge(made_by)
        assert [record["id"] for record in read(files.output)] == [0, 1, 2, 4, 5], step
        assert read(files.failed) == [letters[1]]
        assert made_by.difference(files) is None
        assert not files.missing.exists()
        if not os.WIFSIGNALED(status):
            break
    assert step > 30


def _kill_at(step: int) -> None:
    seen = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != missing_lines.__file__:
            return None
        if event == "line":
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
