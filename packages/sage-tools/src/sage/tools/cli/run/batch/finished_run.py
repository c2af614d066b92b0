"""What a run was, left beside its output, so that it is told from any other run into the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.model_registry.vllm_registry import get_model
from sage.libs.io.input_files import input_files
from sage.libs.io.text_lines import text_lines
from sage.tools.cli.run.batch.run_files import RunFiles, lines_of

LineKey = tuple[str, int]
"""The name of a file, and the number of a line in it."""


class FinishedRun:
    """All that an output follows from: the model, the options, the input by its digest."""

    def __init__(
        self,
        config: VLLMServiceConfig,
        source: Path,
        *,
        system: str | None,
        template: str | None,
    ) -> None:
        embeds = config.model_id is None
        model_id = config.embedding_model_id if embeds else config.model_id
        revision = config.embedding_revision if embeds else config.revision
        facts = {
            "task": "embed" if embeds else "generate",
            "model": model_id,
            "commit": get_model(str(model_id), revision).commit,
            "set of engine options": dict(config.embedding_engine if embeds else config.engine),
            "set of sampling options": {} if embeds else dict(config.sampling),
            "system prompt": system,
            "template": template,
        }
        self._facts: dict[str, Any] = json.loads(json.dumps(facts))
        self._source = source

    def write(self, files: RunFiles) -> None:
        """Say beside the output that this run made it."""
        whole, answered = self._input_digests(failed_lines(files))
        data = {
            **self._facts,
            "input": whole,
            "answered lines": answered,
            "digests": _digests(files),
        }
        files.made_by.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

    def difference(self, files: RunFiles, *, mended: bool = False) -> str:
        """Why the output that is there is not this run's; empty if it is.

        If lines that failed are ``mended``, that is no difference.
        """
        try:
            made_by = json.loads(files.made_by.read_text(encoding="utf-8"))
            digests = made_by.pop("digests")
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            return "nothing says which run made it"
        if digests != _digests(files):  # first: it says which lines failed
            return "it was changed since it was made"
        whole, answered = self._input_digests(failed_lines(files))
        facts = {**self._facts, **({"answered lines": answered} if mended else {"input": whole})}
        others = [name for name, value in facts.items() if made_by.get(name) != value]
        if not others:
            return ""
        if others == ["answered lines"]:
            return "lines other than those that failed were changed since"
        return f"it was made with another {' and another '.join(others)}"

    def _input_digests(self, failed: Collection[LineKey]) -> tuple[str, str]:
        """Return the digest of all lines, and that of those which did not fail."""
        whole, answered = hashlib.sha256(), hashlib.sha256()
        for path in input_files(self._source, ".jsonl"):
            for number, line in text_lines(path):
                numbered = f"{path.name}\0{number}\0".encode() + line.rstrip() + b"\n"
                whole.update(numbered)
                if (path.name, number) not in failed:
                    answered.update(numbered)
        return whole.hexdigest(), answered.hexdigest()


def failed_lines(files: RunFiles) -> set[LineKey]:
    """Return the lines of the input whose records failed."""
    records = (json.loads(line)["record"] for line in lines_of(files.failed))
    return {(Path(record["path"]).name, record["line"]) for record in records}


def _digests(files: RunFiles) -> list[str | None]:
    """Those of the output and of what failed; None for a file that is not there, or empty."""
    paths = (files.output, files.failed)
    return [_digest(path) if path.is_file() and path.stat().st_size else None for path in paths]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
