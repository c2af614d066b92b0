"""Running the lines whose answers an output lacks, and putting these where they belong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sage.libs.io import JSONLSink
from sage.libs.io.input_files import input_files
from sage.libs.io.text_lines import text_lines
from sage.tools.cli.run.batch.finished_run import FinishedRun, LineKey, failed_lines
from sage.tools.cli.run.batch.run_files import RunFiles, lines_of

_MERGED = "merged"
_CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class _Line:
    path: Path
    number: int
    text: bytes
    is_missing: bool

    @property
    def key(self) -> LineKey:
        return self.path.name, self.number


class MissingLines:
    """The lines that failed, or were added to the input, as a run of their own in a folder.

    When that run is at its end, its answers are merged with those that were there, in the order
    of the input: the output is that of a run in which these lines did not fail, or were there.
    """

    def __init__(self, source: Path, files: RunFiles, *, failed: bool, added: bool) -> None:
        self._source = source
        self._whole = files
        self._letters = failed_lines(files)
        self._failed = set(self._letters) if failed else set()
        self._known = files.count()[0]
        self._wanted = None if added else self._known
        self.source = files.missing / "lines.jsonl"
        self.origins: list[tuple[str, int]] = []
        self.files = RunFiles(files.missing / "answers.jsonl")

    def begin(self) -> None:
        """Take the lines from the input, mended or not.

        A run of the same ones goes on, also if more were added to them; one of others begins anew.
        """
        taken = self._whole.missing.with_name(f"{self._whole.missing.name}.new")
        read = 0
        with taken.open("wb") as file:
            for line in self._lines():
                read += 1
                if line.is_missing:
                    file.write(line.text.rstrip(b"\r\n") + b"\n")
                    self.origins.append((str(line.path), line.number))
        self._wanted = read  # more may be added while these are run
        if self.source.exists() and not _begins_with(taken, self.source):
            shutil.rmtree(self._whole.missing)
        self._whole.missing.mkdir(exist_ok=True)
        taken.replace(self.source)

    def merge(self, made_by: FinishedRun) -> None:
        """Put both outputs together, and what failed; a kill in between does no harm."""
        making = self._whole.missing / f"{_MERGED}.partial"
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
        making.rename(self._whole.missing / _MERGED)
        finish_merge(self._whole)

    def _lines(self) -> Iterator[_Line]:
        """Yield each line of the input that the output is to be of."""
        index = 0
        for path in input_files(self._source, ".jsonl"):
            for number, text in islice(text_lines(path), self._left(index)):
                is_missing = index >= self._known or (path.name, number) in self._failed
                yield _Line(path, number, text, is_missing)
                index += 1

    def _left(self, index: int) -> int | None:
        return None if self._wanted is None else self._wanted - index

    def _merged(self) -> Iterator[tuple[bool, Any]]:
        """Each record in the order of the input, and whether it is an answer."""
        before, again = lines_of(self._whole.output), lines_of(self.files.output)
        letters = self._letters, failed_lines(self.files)
        for line in self._lines():
            letter = letters[line.is_missing].get(line.key)
            if letter is not None:
                yield False, letter
            else:
                yield True, json.loads(next(again if line.is_missing else before))


def finish_merge(files: RunFiles) -> None:
    """Give merged files their names, if it came so far; again, if it was killed at that."""
    merged = RunFiles(files.missing / _MERGED / files.output.name)
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
    done = files.missing.with_name(f"{files.missing.name}.done")
    shutil.rmtree(done, ignore_errors=True)
    files.missing.rename(done)  # in one step: what is left must not be taken for such a run
    shutil.rmtree(done)


def _begins_with(path: Path, start: Path) -> bool:
    with path.open("rb") as file, start.open("rb") as beginning:
        while piece := beginning.read(_CHUNK):
            if file.read(len(piece)) != piece:
                return False
    return True
