"""ModelOrigin: the registry of the process that has the pipeline, for replicas elsewhere."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from sage.common.model_registry.download.model_copy import PIECE_BYTES
from sage.common.model_registry.errors import ModelNotFoundError, RevisionNotFoundError
from sage.common.model_registry.layout import registry_root
from sage.common.model_registry.lookup import get_model
from sage.common.model_registry.model_info import ModelInfo


class ModelOrigin:
    """Says which commit of a model all replicas have, and lends its files.

    Machines may have different commits of one model. Answers of one run must not be of two, so the
    commit is that of the registry here, or where the model is not here, that of the first replica.

    Args:
        root: the registry's root; None is the usual one.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._agreed: dict[tuple[str, str | None], str] = {}

    def agree(self, model_id: str, revision: str | None, commit: str | None) -> str | None:
        """Return the commit that this revision of a model means in this run.

        ``commit`` is what it means to the replica that asks, None if it does not have the model.
        Returns None if nobody has it.
        """
        key = (model_id, revision)
        with self._lock:
            if key not in self._agreed:
                here = self.record(model_id, revision)
                commit = commit if here is None else here.commit
                if commit is None:
                    return None
                self._agreed[key] = commit
            return self._agreed[key]

    def record(self, model_id: str, revision: str | None) -> ModelInfo | None:
        """Return the record of a model here, None if it is not here."""
        with suppress(ModelNotFoundError, RevisionNotFoundError):
            return get_model(model_id, revision, root=self._root)
        return None

    def read(self, model_id: str, commit: str, path: str, offset: int) -> bytes:
        """Return a piece of one of a model's files."""
        model = get_model(model_id, commit, root=self._root)
        if path not in model.files:
            raise FileNotFoundError(f"model {model_id!r} has no file {path!r}")
        with (model.path / path).open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES)

    def root(self) -> Path:
        """Return where the registry lies."""
        return registry_root(self._root)
