"""`sage llm run --input-grew`: lines that are added to an input later, in any form of file."""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_line import CommandLine, refused

from sage.libs.io.text_lines import text_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ECHO = """
import os
from sage.common.components.sage_vllm.testing import EchoEngine
from sage.tools.cli.main import main
from sage.tools.cli.run import loading

class SlowingEcho(EchoEngine):
    def submit(self, *arguments):
        self._latency += float(os.environ.get("EACH_LATER_BY", "0"))
        return super().submit(*arguments)

class EchoService(loading.ShownService):
    def __init__(self, config, **others):
        super().__init__(config, engine_factory=SlowingEcho, **others)

loading.ShownService = EchoService
main()
"""


@pytest.fixture
def sage(model_root: Path) -> Iterator[CommandLine]:
    """The command line, with the engine of the testing room: what is tried here is files."""
    environment = {**os.environ, "SAGE_VLLM_MODEL_ROOT": str(model_root)}
    with CommandLine(environment, (sys.executable, "-c", ECHO)) as sage:
        yield sage


def run(source: Path, output: Path, *options: str) -> tuple[str, ...]:
    return ("llm", "run", "test/tiny-chat", "-i", str(source), "-o", str(output), *options)


def answers(path: Path) -> list[Any]:
    """The records of an output, without what differs from run to run."""
    records = [json.loads(line) for _, line in text_lines(path)]
    for record in records:
        del record["generation"]
    return records


def records(first: int, end: int) -> list[str]:
    return [
        json.dumps({"id": n, "prompt": f"Zahl {n} ß"}, ensure_ascii=False)
        for n in range(first, end)
    ]


def zstandard(text: str) -> bytes:
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as file:
        file.write(text.encode())
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


FORMS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "utf-16": (lambda text: gzip.compress(text.replace("\n", "\r\n").encode("utf-16")), ".zst"),
    "utf-8-sig": (lambda text: zstandard(f"\ufeff{text}"), ".gz"),
}


@pytest.mark.parametrize("form", FORMS)
def test_only_lines_that_were_added_are_run_and_the_output_is_that_of_a_run_over_all(
    form: str, sage: CommandLine, tmp_path: Path
) -> None:
    encoded, suffix = FORMS[form]
    source, output = tmp_path / "in.jsonl", tmp_path / f"out.jsonl{suffix}"
    first, broken, *more = records(0, 6)
    broken = broken[:-1]  # as of a writer that was stopped in a line
    source.write_bytes(encoded(f"{first}\n\n{broken}"))
    done = sage(*run(source, output, "--json"))
    assert json.loads(done.stdout) == {"output": str(output), "records": 2, "failed": 1}
    assert f"Hint: {output}.failed has each" in done.stderr

    mended = f"{first}\n\n{broken}}}\n"
    source.write_bytes(encoded(f"{first}\n\n{broken}\n{more[0]}\n{more[1]}"))
    refused(sage(*run(source, output)), "another input: lines were added", "with --input-grew, or")
    refused(sage(*run(source, output, "--retry-failed")), "lines were added", "with --input-grew")
    done = sage(*run(source, output, "--input-grew", "--json"))
    assert json.loads(done.stdout) == {"output": str(output), "records": 4, "failed": 1}
    assert "2 read, 2 written" in done.stderr
    assert [answer["id"] for answer in answers(output)] == [0, 2, 3]
    again = sage(*run(source, output, "--input-grew"))
    assert "complete already, 4 records" in again.stderr

    whole = "\n".join([mended.rstrip(), *more])
    source.write_bytes(encoded(whole))
    both = "another input: lines that failed were changed and lines were added"
    refused(sage(*run(source, output, "--input-grew")), both, "--input-grew and --retry-failed, or")
    done = sage(*run(source, output, "--input-grew", "--retry-failed"))
    assert (done.returncode, done.stdout) == (0, "")
    assert "3 read, 3 written" in done.stderr
    at_once = tmp_path / f"whole.jsonl{suffix}"
    assert sage(*run(source, at_once)).returncode == 0
    assert answers(output) == answers(at_once)
    assert [answer["id"] for answer in answers(output)] == list(range(6))
    assert sorted(path.name for path in tmp_path.glob("out*")) == [
        output.name,
        f"{output.name}.run",
    ]


def test_a_last_line_that_goes_on_in_what_was_added_has_changed(
    sage: CommandLine, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"one"\n"two"')
    assert sage(*run(source, output)).returncode == 0
    source.write_text('"one"\n"two" \n')  # the same line, ended
    assert sage(*run(source, output)).returncode == 0
    source.write_text('"one"\n"two""three"\n')
    refused(sage(*run(source, output, "--input-grew")), "another input", "--overwrite")
    source.write_text('"one"\n')
    refused(sage(*run(source, output, "--input-grew")), "another input", "--overwrite")
    source.write_text('"one"\n"two"\n"three"')
    assert sage(*run(source, output, "--input-grew")).returncode == 0
    assert [answer["prompt"] for answer in answers(output)] == ["one", "two", "three"]


def test_killed_runs_go_on_with_what_was_added_meanwhile(sage: CommandLine, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = records(0, 1500)
    source.write_text("\n".join(lines[:1000]))

    def kill(partial: Path, *options: str) -> int:
        process = sage.start(*run(source, output, *options), EACH_LATER_BY="0.02")

        def wait_until(true: Callable[[], bool]) -> None:
            while not true():
                assert process.poll() is None
                time.sleep(0.01)

        wait_until(lambda: partial.exists() and partial.stat().st_size > 0)
        log = partial.with_suffix(".checkpoint") / "checkpoint.sqlite-wal"
        before = log.stat().st_mtime_ns
        wait_until(lambda: log.stat().st_mtime_ns != before)  # by a commit
        process.kill()
        process.communicate()
        return len(partial.read_bytes().splitlines())

    written = kill(tmp_path / "out.jsonl.partial")
    assert 0 < written < 1000
    source.write_text("\n".join(lines[:1010]))
    refused(
        sage(*run(source, output)), "its input grew since it was begun", "--input-grew, or begin"
    )
    _ended(sage(*run(source, output, "--input-grew")), 1010, done_before=1)
    assert [answer["id"] for answer in answers(output)] == list(range(1010))

    source.write_text("\n".join(lines[:1490]))
    kill(tmp_path / "out.jsonl.missing" / "answers.jsonl.partial", "--input-grew")
    assert len(answers(output)) == 1010
    source.write_text("\n".join(lines))
    _ended(sage(*run(source, output, "--input-grew")), 490, done_before=1)
    assert [answer["id"] for answer in answers(output)] == list(range(1500))
    assert not (tmp_path / "out.jsonl.missing").exists()


def _ended(done: Any, total: int, *, done_before: int) -> None:
    assert done.returncode == 0, done.stderr
    (read,) = re.findall(r"run: ended after .*: ([\d,]+) read", done.stderr)
    assert 0 < int(read.replace(",", "")) <= total - done_before


def test_inputs_that_cannot_be_told_from_outputs_or_read_twice_are_refused(
    sage: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('"one"\n')
    done = sage(*run(Path("/dev/stdin"), tmp_path / "out.jsonl"), typed='"one"\n')
    refused(done, "/dev/stdin cannot be read twice", "into a file")
    refused(sage(*run(tmp_path, tmp_path / "out.jsonl")), "whose files are the input", "folder")
    os.mkfifo(tmp_path / "pipe")
    refused(sage(*run(tmp_path / "a.jsonl", tmp_path / "pipe")), "a device or a pipe", "ame a file")
    (tmp_path / "pipe").unlink()
    refused(
        sage(*run(Path("~nobody-here/a"), tmp_path / "out.jsonl")), "cannot be expanded", "home"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]
    refused(sage(*run(tmp_path, tmp_path, "--overwrite", "--input-grew")), "give one", code=2)
