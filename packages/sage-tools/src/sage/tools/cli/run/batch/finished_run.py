"""What a run was, left beside its output, so that it is told from any other run into the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.model_registry.vllm_registry import get_model
from sage.libs.io.input_files import input_files
from sage.libs.io.text_lines import text_lines
from sage.tools.cli.run.batch.line_task import LineTask
from sage.tools.cli.run.batch.run_files import RunFiles, lines_of

LineKey = tuple[str, int]
"""The name of a file, and the number of a line in it."""

RETRY_FAILED, INPUT_GREW = "--retry-failed", "--input-grew"
_SAID = {RETRY_FAILED: "lines that failed were changed", INPUT_GREW: "lines were added"}


@dataclass(frozen=True)
class Difference:
    """Why an output is not that of a run, and by which ``flags`` the run adds what it lacks."""

    reason: str
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Input:
    """Digests of the records of an input: of all that were to be read, and of the answered ones."""

    whole: str
    answered: str
    has_more: bool


class FinishedRun:
    """All that an output follows from: the model, the options, the input by its digest."""

    def __init__(
        self,
        config: VLLMServiceConfig,
        source: Path,
        *,
        task: LineTask,
        template: str | None,
    ) -> None:
        settings = config.entries()[task.role.label]
        facts = {
            "task": task.name,
            "model": settings.model_id,
            "commit": get_model(settings.model_id, settings.revision).commit,
            "set of engine options": dict(settings.engine),
            "template": template,
            **task.facts,
        }
        self._facts: dict[str, Any] = json.loads(json.dumps(facts))
        self._source = source

    def write(self, files: RunFiles) -> None:
        """Say beside the output that this run made it, of the lines that it has read."""
        read = self._read_input(failed_lines(files), files.count()[0])
        data = {
            **self._facts,
            "input": read.whole,
            "answered lines": read.answered,
            "digests": _digests(files),
        }
        files.made_by.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

    def difference(self, files: RunFiles) -> Difference | None:
        """Say why the output that is there is not this run's; None if it is."""
        try:
            made_by = json.loads(files.made_by.read_text(encoding="utf-8"))
            digests = made_by.pop("digests")
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            return Difference("nothing says which run made it")
        if digests != _digests(files):  # first: it says which lines failed
            return Difference("it was changed since it was made")
        failed = failed_lines(files)
        read = self._read_input(failed, files.count()[0])
        is_mended = read.whole != made_by.get("input")
        is_other = read.answered != made_by.get("answered lines")
        others = [name for name, value in self._facts.items() if made_by.get(name) != value]
        if others:
            others += ["input"] if is_mended or is_other or read.has_more else []
            return Difference(f"it was made with another {' and another '.join(others)}")
        if is_other and failed:
            return Difference("lines other than those that failed were changed since")
        if is_other:
            return Difference("it was made with another input")
        new = [RETRY_FAILED] if is_mended else []
        new += [INPUT_GREW] if read.has_more else []
        if not new:
            return None
        what = " and ".join(_SAID[flag] for flag in new)
        return Difference(f"it was made with another input: {what}", frozenset(new))

    def _read_input(self, failed: Collection[LineKey], count: int) -> _Input:
        """Read so many records, of which some failed."""
        whole, answered = hashlib.sha256(), hashlib.sha256()
        read = 0
        for path in input_files(self._source, ".jsonl"):
            for number, line in text_lines(path):
                if read == count:
                    return _Input(whole.hexdigest(), answered.hexdigest(), has_more=True)
                read += 1
                numbered = f"{path.name}\0{number}\0".encode() + line.rstrip() + b"\n"
                whole.update(numbered)
                if (path.name, number) not in failed:
                    answered.update(numbered)
        return _Input(whole.hexdigest(), answered.hexdigest(), has_more=False)


def failed_lines(files: RunFiles) -> dict[LineKey, Any]:
    """Return the dead letters of a run by the lines of the input that they are of."""
    letters = map(json.loads, lines_of(files.failed))
    return {(Path(each["record"]["path"]).name, each["record"]["line"]): each for each in letters}


def _digests(files: RunFiles) -> list[str | None]:
    """Those of the output and of what failed; None for a file that is not there, or empty."""
    paths = (files.output, files.failed)
    return [_digest(path) if path.is_file() and path.stat().st_size else None for path in paths]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
