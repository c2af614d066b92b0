"""Finding what nobody needs: left-overs of interrupted work, and models long unused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sage.common.model_registry.layout import manifest_path, registry_root
from sage.common.model_registry.maintenance.deletion import DeletionPlan, is_busy, size_on_disk
from sage.common.model_registry.manifest import read_manifest
from sage.common.model_registry.model_id import is_commit

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from sage.common.model_registry.model_info import ModelInfo


def plan_prune(
    *, unused_days: float | None = None, root: str | os.PathLike[str] | None = None
) -> DeletionPlan:
    """Plan the removal of left-overs and, with `unused_days`, of models not used for that long.

    Left-overs are interrupted downloads that no process is working on, half-deleted models, folders
    that no record names, and records whose folder is gone. Raises ManifestCorruptError.
    """
    if unused_days is not None and unused_days < 0:
        raise ValueError(f"unused_days must not be negative, got {unused_days}")
    base = registry_root(root)
    models = read_manifest(base)
    doomed = tuple(model for model in models if _is_doomed(model, unused_days))
    leftovers = [*_children(base / ".trash"), *_idle_staging(base), *_unlisted(base, models)]
    folders = [*leftovers, *(model.path for model in doomed)]
    return DeletionPlan(
        root=base,
        models=doomed,
        leftovers=tuple(leftovers),
        freed_bytes=sum(size_on_disk(folder) for folder in folders),
    )


def _is_doomed(model: ModelInfo, unused_days: float | None) -> bool:
    if not model.path.is_dir():
        return True
    return unused_days is not None and (
        datetime.now(tz=UTC) - model.last_used > timedelta(days=unused_days)
    )


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _idle_staging(root: Path) -> list[Path]:
    return [
        commit
        for model in _children(root / ".staging")
        if not is_busy(root, model.name)
        for commit in _children(model)
    ]


def _unlisted(root: Path, models: list[ModelInfo]) -> list[Path]:
    if not manifest_path(root).exists():
        return []  # moved aside, perhaps: then every model is unlisted, and none is a left-over
    listed = {model.path for model in models}
    folders = [*root.glob("[!.]*/*/"), *root.glob("[!.]*/*/*/")]
    return sorted(
        folder
        for folder in folders
        # Inside a model, a folder may be named like a commit too.
        if is_commit(folder.name.removeprefix("."))
        and not is_commit(folder.parent.name)
        and folder not in listed
    )
