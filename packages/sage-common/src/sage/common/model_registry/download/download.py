"""Downloading a model: resolve, check the disk, fetch into staging, verify, publish."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from sage.common.model_registry.download.progress import DownloadStatus, watcher_of
from sage.common.model_registry.download.selection import select_files
from sage.common.model_registry.download.transfer import Transfer, retrying
from sage.common.model_registry.errors import (
    HubModelNotFoundError,
    HubUnavailableError,
    ModelNotFoundError,
    RevisionNotFoundError,
)
from sage.common.model_registry.hub.client import Hub
from sage.common.model_registry.layout import registry_root
from sage.common.model_registry.lookup import get_model_path, near_ids, touch_model
from sage.common.model_registry.manifest import read_manifest
from sage.common.model_registry.model_id import check_model_id, check_revision, split_quantisation

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sage.common.model_registry.download.progress import Progress
    from sage.common.model_registry.model_info import ModelInfo, Tag

DEFAULT_REVISION = "main"
"""What the hub itself takes for "no revision given"."""


def download_model(
    model_id: str,
    revision: str | None = None,
    progress: Progress = True,
    *,
    root: str | os.PathLike[str] | None = None,
    token: str | None = None,
    allow_patterns: str | Sequence[str] | None = None,
    ignore_patterns: str | Sequence[str] | None = None,
    allow_pickle: bool = False,
    force: bool = False,
    tags: Mapping[str, Tag] | None = None,
    max_workers: int = 8,
) -> ModelInfo:
    """Download a model from the hub, verify every file and register it; returns its record.

    `model_id` may name one quantisation of a repository in GGUF, as in "owner/name:Q4_K_M"; the
    model is then known by its id without it.

    What is already there and right is not fetched again: files of an interrupted download, of
    another revision, or of an earlier call with other patterns. `force` fetches all of it anew.
    With HF_HUB_OFFLINE set, a model that is in the registry is returned as it is.

    Raises HubModelNotFoundError, RevisionNotFoundError, GatedModelError, HubAccessError,
    HubUnavailableError, PickledWeightsError, GGUFError, EmptySelectionError,
    IncompleteModelError, InsufficientDiskError, IntegrityError, RegistryNotWritableError,
    InvalidModelIdError or ManifestCorruptError. After any of them the registry is as it was.
    """
    model_id, quantisation = split_quantisation(model_id)
    check_model_id(model_id)
    name = check_revision(revision) if revision is not None else DEFAULT_REVISION
    base = registry_root(root)
    models = read_manifest(base)  # a corrupt one is better found before fetching gigabytes
    watch = watcher_of(progress)
    watch(DownloadStatus(model_id=model_id, phase="resolving"))
    hub = Hub(model_id, token=token)
    try:
        commit = retrying(lambda: hub.commit_of(name))
    except (HubUnavailableError, HubModelNotFoundError) as error:
        if _offline():
            with suppress(ModelNotFoundError, RevisionNotFoundError):
                return touch_model(model_id, revision, root=base)
        near = tuple(each for each in near_ids(model_id, models) if each != model_id)
        if not near:
            raise
        if isinstance(error, HubModelNotFoundError):
            raise HubModelNotFoundError(model_id, near=near) from error
        raise HubUnavailableError(model_id, error.reason, hint=error.hint, near=near) from error
    files = select_files(
        model_id,
        retrying(lambda: hub.files_of(commit)),
        allow_patterns=allow_patterns,
        ignore_patterns=ignore_patterns,
        allow_pickle=allow_pickle,
        quantisation=quantisation,
    )
    if quantisation:
        tags = {**(tags or {}), "quantisation": quantisation}
    transfer = Transfer(
        root=base, hub=hub, revision=name, commit=commit, max_workers=max_workers, watch=watch
    )
    return transfer.run(files, tags=tags, force=force, whole=allow_patterns is None)


def ensure_model_available(
    model_id: str,
    revision: str | None = None,
    *,
    progress: Progress = True,
    root: str | os.PathLike[str] | None = None,
    token: str | None = None,
    allow_pickle: bool = False,
) -> Path:
    """Return the folder of a model, downloaded first if it is not in the registry.

    Does not ask the hub for a model that is there. Raises as `download_model`.
    """
    try:
        return get_model_path(split_quantisation(model_id)[0], revision, root=root)
    except (ModelNotFoundError, RevisionNotFoundError):
        model = download_model(
            model_id, revision, progress, root=root, token=token, allow_pickle=allow_pickle
        )
        return model.path


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
