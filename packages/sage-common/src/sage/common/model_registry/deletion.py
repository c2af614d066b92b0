"""Deletion as a plan that can be shown first, then executed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import ModelNotFoundError
from .layout import move_to_trash, registry_root, remove_tree
from .lookup import find_model
from .manifest import editing_manifest, read_manifest
from .model_id import check_model_id

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from .model_info import ModelInfo


@dataclass(frozen=True, kw_only=True)
class DeletionPlan:
    """What a deletion removes, and the bytes of disk that it frees."""

    root: Path
    models: tuple[ModelInfo, ...]
    freed_bytes: int

    def execute(self) -> tuple[ModelInfo, ...]:
        """Remove what the plan names; returns the models that this call took off the list."""
        doomed = {_key(model) for model in self.models}
        with editing_manifest(self.root) as models:
            gone = tuple(model for model in models if _key(model) in doomed)
            models[:] = [model for model in models if _key(model) not in doomed]
        # Off the list first, then off the disk: nothing is ever listed that is not whole.
        trash = []
        with editing_manifest(self.root) as models:
            listed_again = {_key(model) for model in models}
            for model in self.models:
                if _key(model) not in listed_again and model.path.is_dir():
                    trash.append(move_to_trash(self.root, model.path))
                    _remove_empty_parents(self.root, model.path)
        for folder in trash:
            remove_tree(folder)
        return gone


def _key(model: ModelInfo) -> tuple[str, str]:
    return model.model_id, model.commit


def plan_deletion(
    model_id: str, revision: str | None = None, *, root: str | os.PathLike[str] | None = None
) -> DeletionPlan:
    """Plan the deletion of one revision of a model, or of all of them.

    Raises ModelNotFoundError, RevisionNotFoundError, InvalidModelIdError or ManifestCorruptError.
    """
    base = registry_root(root)
    check_model_id(model_id)
    known = read_manifest(base)
    found = find_model(known, model_id, revision, base)
    models = tuple(
        model
        for model in known
        if model.model_id == model_id and (revision is None or model.commit == found.commit)
    )
    freed = sum(_size_on_disk(model.path) for model in models)
    return DeletionPlan(root=base, models=models, freed_bytes=freed)


def delete_model(
    model_id: str, revision: str | None = None, *, root: str | os.PathLike[str] | None = None
) -> DeletionPlan:
    """Delete one revision of a model, or all of them; returns what was removed.

    Raises as `plan_deletion`, and RegistryNotWritableError.
    """
    plan = plan_deletion(model_id, revision, root=root)
    if not plan.execute():
        raise ModelNotFoundError(
            model_id, root=plan.root, hint="Another process has just deleted it."
        )
    return plan


def _size_on_disk(folder: Path) -> int:
    """Bytes that go with `folder`: links, and files shared with another revision, free none."""
    sizes = (path.lstat() for path in folder.rglob("*") if not path.is_symlink() and path.is_file())
    return sum(stat.st_size for stat in sizes if stat.st_nlink == 1)


def _remove_empty_parents(root: Path, folder: Path) -> None:
    with suppress(OSError):  # not empty: other revisions or models of the owner are there
        for parent in folder.parents:
            if parent == root:
                break
            parent.rmdir()
