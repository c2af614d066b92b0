"""Running the lines that failed once more, and putting their answers where they belong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from filecmp import cmp
from pathlib import Path
from typing import Any

from sage.libs.io import JSONLSink
from sage.libs.io.input_files import input_files
from sage.libs.io.text_lines import text_lines
from sage.tools.cli.run.batch.finished_run import FinishedRun, failed_lines
from sage.tools.cli.run.batch.run_files import RunFiles, lines_of

_MERGED = "merged"


class Retry:
    """The lines that failed, as a run of their own in a folder beside the output.

    When that run is at its end, its answers are merged with those that were there, in the order
    of the input: the output is that of a run in which these lines did not fail.
    """

    def __init__(self, source: Path, files: RunFiles) -> None:
        self._source = source
        self._whole = files
        self._failed = failed_lines(files)
        self.source = files.retry / "lines.jsonl"
        self.origins: list[tuple[str, int]] = []
        self.files = RunFiles(files.retry / "answers.jsonl")

    def begin(self) -> None:
        """Take the lines from the input, mended or not; a retry of others begins anew."""
        taken = self._whole.retry.with_name(f"{self._whole.retry.name}.new")
        with taken.open("wb") as file:
            for path, number, line in self._lines():
                if (path.name, number) in self._failed:
                    file.write(line.rstrip(b"\r\n") + b"\n")
                    self.origins.append((str(path), number))
        if self.source.exists() and not cmp(taken, self.source, shallow=False):
            shutil.rmtree(self._whole.retry)
        self._whole.retry.mkdir(exist_ok=True)
        taken.replace(self.source)

    def merge(self, made_by: FinishedRun) -> None:
        """Put both outputs together, and what failed again; a kill in between does no harm."""
        making = self._whole.retry / f"{_MERGED}.partial"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        merged = RunFiles(making / self._whole.output.name)
        outputs = {True: JSONLSink(merged.output), False: JSONLSink(merged.failed)}
        for sink in outputs.values():
            sink.begin(None)
        for is_answer, record in self._merged():
            outputs[is_answer].execute(record)
        for sink in outputs.values():
            sink.finish()
            sink.cleanup()
        made_by.write(merged)
        making.rename(self._whole.retry / _MERGED)
        finish_retry(self._whole)

    def _lines(self) -> Iterator[tuple[Path, int, bytes]]:
        for path in input_files(self._source, ".jsonl"):
            for number, line in text_lines(path):
                yield path, number, line

    def _merged(self) -> Iterator[tuple[bool, Any]]:
        """Each record in the order of the input, and whether it is an answer."""
        before, again = lines_of(self._whole.output), lines_of(self.files.output)
        letters = {
            (letter["record"]["path"], letter["record"]["line"]): letter
            for letter in map(json.loads, lines_of(self.files.failed))
        }
        for path, number, _ in self._lines():
            letter = letters.get((str(path), number))
            if letter is not None:
                yield False, letter
            elif (path.name, number) in self._failed:
                yield True, json.loads(next(again))
            else:
                yield True, json.loads(next(before))


def finish_retry(files: RunFiles) -> None:
    """Give merged files their names, if a retry came so far; again, if it was killed at that."""
    merged = RunFiles(files.retry / _MERGED / files.output.name)
    if not merged.output.parent.is_dir():
        return
    pairs = (
        (merged.output, files.output),
        (merged.failed, files.failed),
        (merged.made_by, files.made_by),
    )
    for new, old in pairs:
        if new.exists():
            new.replace(old)
    files.drop_empty_failed()
    done = files.retry.with_name(f"{files.retry.name}.done")
    shutil.rmtree(done, ignore_errors=True)
    files.retry.rename(done)  # in one step: what is left of it must not be taken for a retry
    shutil.rmtree(done)
