"""Getting one commit of a model from the hub into the registry: stage, check, fetch, publish."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from sage.common.model_registry.download.progress import DownloadStatus
from sage.common.model_registry.download.staging import Staging
from sage.common.model_registry.errors import HubUnavailableError
from sage.common.model_registry.hub.watched_call import watched_call
from sage.common.model_registry.layout import (
    check_disk,
    model_folder,
    remove_tree,
    staging_folder,
    writing,
)
from sage.common.model_registry.lookup import put_last
from sage.common.model_registry.manifest import editing_manifest, read_manifest
from sage.common.model_registry.model_traits import own_tags
from sage.common.model_registry.publishing import publish, with_names_of, writing_model
from sage.common.model_registry.weight_errors import IncompleteModelError, IntegrityError
from sage.common.model_registry.weights import missing_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sage.common.model_registry.download.progress import Phase
    from sage.common.model_registry.hub.client import Hub
    from sage.common.model_registry.model_info import FileRecord, ModelInfo, Tag

Result = TypeVar("Result")
Files = Mapping[str, "FileRecord"]

RETRY_DELAYS = (0.5, 2.0)
"""Seconds before another attempt, after one that brought nothing new; then it is given up."""


def retrying(ask: Callable[[], Result]) -> Result:
    """Ask the hub, again after each delay while it is not available."""
    for delay in RETRY_DELAYS:
        try:
            return ask()
        except HubUnavailableError:
            time.sleep(delay)
    return ask()


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One commit of one model on its way into the registry."""

    root: Path
    hub: Hub
    revision: str
    commit: str
    max_workers: int
    watch: Callable[[DownloadStatus], None]

    @property
    def _model_id(self) -> str:
        return self.hub.model_id

    def run(
        self, files: Files, *, tags: Mapping[str, Tag] | None, force: bool, whole: bool
    ) -> ModelInfo:
        """Bring `files` into the registry, unless they are there and `force` is not set.

        A model that is to be `whole` is refused if weights of it are missing.
        """
        with writing_model(self.root, self._model_id, on_wait=lambda: self._tell("waiting")):
            known = self._known()
            if known is not None:
                if not force and files.items() <= known.files.items() and _is_whole(known):
                    return self._asked_again(known, tags)
                kept = dict(known.files)
                if any(path.endswith(".gguf") for path in files):  # one quantisation at a time
                    kept = {path: kept[path] for path in kept if not path.endswith(".gguf")}
                files = {**kept, **files}
                tags = {**own_tags(known.tags), **(tags or {})}
            return self._transfer(files, tags=tags or {}, force=force, whole=whole)

    def repair(self, model: ModelInfo) -> ModelInfo:
        """Replace the bad files of a model by good ones; the others are kept."""
        with writing_model(self.root, self._model_id, on_wait=lambda: self._tell("waiting")):
            return self._transfer(model.files, tags=model.tags, force=False, whole=False)

    def _known(self) -> ModelInfo | None:
        wanted = (self._model_id, self.commit)
        models = read_manifest(self.root)
        return next((each for each in models if (each.model_id, each.commit) == wanted), None)

    def _asked_again(self, known: ModelInfo, tags: Mapping[str, Tag] | None) -> ModelInfo:
        with editing_manifest(self.root) as models:
            model = replace(
                known,
                revision=self.revision,
                last_used=datetime.now(tz=UTC),
                tags={**known.tags, **(tags or {})},
            )
            model = with_names_of(models, model)
            put_last(models, model)
        self._tell("done", files=known.files)
        return model

    def _transfer(
        self, files: Files, *, tags: Mapping[str, Tag], force: bool, whole: bool
    ) -> ModelInfo:
        folder = staging_folder(self.root, self._model_id, self.commit)
        staging = Staging(folder, files)
        if force:
            remove_tree(folder)
        staging.prepare(() if force else self._folders_of_model())
        missing = self._check(staging, [*files])
        check_disk(self.root, self._model_id, sum(files[path].size for path in missing))
        self._fetch(staging, missing)
        staging.strip()
        if whole and (lacking := missing_weights(folder)):
            raise IncompleteModelError(self._model_id, tuple(lacking), where="its repository")
        model = publish(
            self.root,
            folder,
            model_id=self._model_id,
            revision=self.revision,
            commit=self.commit,
            files=files,
            tags=tags,
        )
        self._tell("done", files=files)
        return model

    def _folders_of_model(self) -> list[Path]:
        """Return the folders to reuse files from: an unlisted one, and other revisions."""
        listed = [each.path for each in read_manifest(self.root) if each.model_id == self._model_id]
        return [model_folder(self.root, self._model_id, self.commit), *reversed(listed)]

    def _fetch(self, staging: Staging, missing: list[str]) -> None:
        failures = 0
        while missing:
            try:
                self._fetch_once(staging, missing)
            except HubUnavailableError as error:
                left = staging.absent(missing)
                failures = 1 if len(left) < len(missing) else failures + 1
                if failures > len(RETRY_DELAYS):
                    kept = len(left) < len(staging.expected)
                    raise HubUnavailableError(self._model_id, error.reason, kept=kept) from error
                time.sleep(RETRY_DELAYS[failures - 1])
                missing = self._check(staging, missing)
                continue
            absent = staging.absent(missing)
            if absent:  # the client reports success when the hub goes away between two files
                raise HubUnavailableError(self._model_id, f"{absent[0]} did not arrive")
            bad = self._check(staging, missing)
            if bad:
                raise IntegrityError(self._model_id, tuple(bad))
            return

    def _fetch_once(self, staging: Staging, missing: list[str]) -> None:
        files = staging.expected
        total = sum(record.size for record in files.values())
        before = total - sum(files[path].size for path in missing)

        def tell(count: int) -> None:
            left = staging.absent(missing)
            self.watch(
                DownloadStatus(
                    model_id=self._model_id,
                    phase="downloading",
                    done_bytes=min(total, before + count),
                    total_bytes=total,
                    done_files=len(files) - len(left),
                    total_files=len(files),
                    active=staging.in_flight(left),
                )
            )

        tell(0)
        with writing(self.root, self._model_id):
            self.hub.fetch(
                self.commit, missing, staging.folder, max_workers=self.max_workers, on_bytes=tell
            )

    def _check(self, staging: Staging, paths: list[str]) -> list[str]:
        """Those of `paths` that are missing or wrong; a wrong one is removed."""
        files = staging.expected
        total = sum(files[path].size for path in paths)
        checked: list[int] = []

        def tell() -> None:
            self.watch(
                DownloadStatus(
                    model_id=self._model_id,
                    phase="verifying",
                    done_bytes=sum(checked),
                    total_bytes=total,
                    done_files=len(checked),
                    total_files=len(paths),
                )
            )

        return [
            *watched_call(
                lambda: staging.remove_bad(paths, lambda _, size: checked.append(size)),
                sign_of_life=lambda: len(checked),
                silence_limit=float("inf"),  # a disk answers in the end
                on_tick=tell,
                cancel=lambda: None,
            )
        ]

    def _tell(self, phase: Phase, *, files: Files | None = None) -> None:
        size = sum(record.size for record in files.values()) if files else 0
        count = len(files) if files else 0
        self.watch(
            DownloadStatus(
                model_id=self._model_id,
                phase=phase,
                done_bytes=size,
                total_bytes=size,
                done_files=count,
                total_files=count,
            )
        )


def _is_whole(model: ModelInfo) -> bool:
    """Whether every file is there with its size: what can be told without reading them all."""
    try:
        return all(
            (model.path / path).stat().st_size == record.size
            for path, record in model.files.items()
        )
    except FileNotFoundError:
        return False
