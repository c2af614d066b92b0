"""What a run was, left beside its output, so that it is told from any other run into the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.model_registry.vllm_registry import get_model
from sage.libs.io.input_files import input_files


class FinishedRun:
    """All that an output follows from: the model, the options, the input by its digest."""

    def __init__(
        self,
        config: VLLMServiceConfig,
        source: Path,
        files: tuple[Path, ...],
        *,
        system: str | None,
    ) -> None:
        """``files`` are those that the run writes, its output first."""
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
            "input": [_digest(file) for file in input_files(source, ".jsonl")],
        }
        self._facts: dict[str, Any] = json.loads(json.dumps(facts))
        self._files = files
        self._path = files[0].with_name(f"{files[0].name}.run")

    def write(self) -> None:
        """Say beside the output that this run made it."""
        data = {**self._facts, "digests": self._digests()}
        self._path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

    def difference(self) -> str:
        """Why the output that is there is not this run's; empty if it is."""
        try:
            made_by = json.loads(self._path.read_text(encoding="utf-8"))
            digests = made_by.pop("digests")
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            return "nothing says which run made it"
        others = [name for name, value in self._facts.items() if made_by.get(name) != value]
        if others:
            return f"it was made with another {' and another '.join(others)}"
        return "" if digests == self._digests() else "it was changed since it was made"

    def _digests(self) -> list[str | None]:
        return [_digest(file) if file.exists() else None for file in self._files]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
