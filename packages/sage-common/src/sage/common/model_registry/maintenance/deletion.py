"""Deletion as a plan that can be shown first, then executed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage.common.core.file_locks import file_lock
from sage.common.model_registry.errors import ModelNotFoundError
from sage.common.model_registry.layout import (
    check_inside,
    lock_path,
    move_to_trash,
    registry_root,
    remove_tree,
    staging_folder,
    writing,
)
from sage.common.model_registry.lookup import find_model
from sage.common.model_registry.manifest import editing_manifest, read_manifest

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from sage.common.model_registry.model_info import ModelInfo


@dataclass(frozen=True, kw_only=True)
class DeletionPlan:
    """What a deletion removes, and the bytes of disk that it frees."""

    root: Path
    models: tuple[ModelInfo, ...]
    leftovers: tuple[Path, ...] = ()
    """Folders that belong to no listed model."""
    freed_bytes: int

    def execute(self) -> tuple[ModelInfo, ...]:
        """Remove what the plan names; returns the models that this call took off the list.

        What another process removed, or began to use, since the plan was made is left alone.
        """
        doomed = {_key(model) for model in self.models}
        with editing_manifest(self.root) as models:
            gone = tuple(model for model in models if _key(model) in doomed)
            models[:] = [model for model in models if _key(model) not in doomed]
        # Off the list first, then off the disk: nothing is ever listed that is not whole.
        with writing(self.root):
            self._remove_folders()
        return gone

    def _remove_folders(self) -> None:
        trash = []
        staging = self.root / ".staging"
        with editing_manifest(self.root) as models:
            listed = {model.path for model in models}
            for folder in (*(model.path for model in self.models), *self.leftovers):
                if folder.is_dir() and folder not in listed and staging not in folder.parents:
                    trash.append(move_to_trash(self.root, folder))
                    _remove_empty_parents(self.root, folder)
        for folder in self.leftovers:
            if staging in folder.parents:
                _remove_idle(self.root, folder)
        for folder in trash:
            remove_tree(folder)


def _key(model: ModelInfo) -> tuple[str, str]:
    return model.model_id, model.commit


def plan_deletion(
    model_id: str, revision: str | None = None, *, root: str | os.PathLike[str] | None = None
) -> DeletionPlan:
    """Plan the deletion of one revision of a model, or of all of it and its unfinished downloads.

    Raises ModelNotFoundError, RevisionNotFoundError, InvalidModelIdError or ManifestCorruptError.
    """
    base = registry_root(root)
    unfinished = staging_folder(base, model_id, "any").parent
    leftovers: tuple[Path, ...] = ()
    if revision is None and unfinished.is_dir() and not is_busy(base, unfinished.name):
        leftovers = tuple(sorted(unfinished.iterdir()))
    known = read_manifest(base)
    models = tuple(model for model in known if model.model_id == model_id)
    if revision is not None or not (models or leftovers):
        models = (_known(known, model_id, revision, base),)
    folders = [*leftovers, *(model.path for model in models)]
    return DeletionPlan(
        root=base,
        models=models,
        leftovers=leftovers,
        freed_bytes=sum(size_on_disk(folder) for folder in folders),
    )


def _known(models: list[ModelInfo], model_id: str, revision: str | None, root: Path) -> ModelInfo:
    try:
        return find_model(models, model_id, revision, root)
    except ModelNotFoundError as error:
        hint = "Run `sage llm model show` to see what is there."
        raise ModelNotFoundError(model_id, root=root, near=error.near, hint=hint) from None


def delete_model(
    model_id: str, revision: str | None = None, *, root: str | os.PathLike[str] | None = None
) -> DeletionPlan:
    """Delete one revision of a model, or all of them; returns what was removed.

    Raises as `plan_deletion`, and RegistryNotWritableError.
    """
    plan = plan_deletion(model_id, revision, root=root)
    if not plan.execute() and plan.models:
        raise ModelNotFoundError(
            model_id, root=plan.root, hint="Another process has just deleted it."
        )
    return plan


def size_on_disk(folder: Path) -> int:
    """Bytes that go with `folder`: links, and files shared with another revision, free none."""
    sizes = (path.lstat() for path in folder.rglob("*") if not path.is_symlink() and path.is_file())
    return sum(stat.st_size for stat in sizes if stat.st_nlink == 1)


def _remove_empty_parents(root: Path, folder: Path) -> None:
    with suppress(OSError):  # not empty: other revisions or models of the owner are there
        for parent in folder.parents:
            if parent == root:
                break
            parent.rmdir()


def is_busy(root: Path, staging_name: str) -> bool:
    """Whether a process is writing this model now."""
    lock = lock_path(root, staging_name.replace("--", "/"))
    if not lock.exists():
        return False
    from filelock import Timeout  # see file_lock()

    try:
        with file_lock(lock, timeout=0):
            return False
    except (Timeout, OSError):  # a root that cannot be written: then nothing of it is idle either
        return True


def _remove_idle(root: Path, staged: Path) -> None:
    from filelock import Timeout  # see file_lock()

    check_inside(root, staged)
    lock = lock_path(root, staged.parent.name.replace("--", "/"))
    lock.parent.mkdir(parents=True, exist_ok=True)
    with suppress(Timeout), file_lock(lock, timeout=0):
        remove_tree(staged)
