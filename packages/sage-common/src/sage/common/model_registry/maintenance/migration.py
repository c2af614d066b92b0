"""Taking over the models of isage 0.1 and 0.2, without fetching or copying them again."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage.common.model_registry.checksums import find_problems, records_of
from sage.common.model_registry.earlier_manifest import earlier_models
from sage.common.model_registry.errors import ModelRegistryError
from sage.common.model_registry.import_folder import digest_of, files_of_model
from sage.common.model_registry.layout import (
    check_inside,
    manifest_path,
    model_folder,
    move_into_place,
    registry_root,
    remove_tree,
    staging_folder,
    writing,
)
from sage.common.model_registry.manifest import locked_manifest, write_manifest
from sage.common.model_registry.model_id import check_model_id, check_revision, is_commit
from sage.common.model_registry.model_info import FileRecord, ModelInfo
from sage.common.model_registry.model_traits import read_traits
from sage.common.model_registry.weight_errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sage.common.model_registry.earlier_manifest import EarlierModel

_BACKUP = "metadata.json.isage"


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What became of an earlier registry."""

    models: tuple[ModelInfo, ...]
    """Those that were taken over."""
    left: Mapping[str, str]
    """Model id -> why it was not; its folder, if there is one, is as it was."""
    backup: Path | None
    """The earlier manifest; None if there was none, and nothing was done."""


def migrate_registry(*, root: str | os.PathLike[str] | None = None) -> Migration:
    """Make a registry of isage 0.1 or 0.2 one of this SAGE.

    Each model's files are checked as at an import, and against the hub's checksums where the
    hub's client noted them; such a model keeps its commit, and can be repaired and updated. The
    files become files of the registry without being copied, where the disk can do that. Until
    the new manifest is in place, the earlier one and its folders are as they were, so that a
    migration that is stopped can be started again. The earlier manifest stays beside the new one.

    Raises RegistryNotWritableError or InsufficientDiskError.
    """
    base = registry_root(root)
    path, backup = manifest_path(base), base / _BACKUP
    with writing(base), locked_manifest(base):
        earlier = _read_earlier(path)
        if earlier is None:
            return Migration(models=(), left={}, backup=None)
        taken, folders, left = [], [], {}
        for model in earlier:
            folder = model.folder(base)
            try:
                taken.append(_take_over(base, model, folder))
            except ModelRegistryError as error:
                left[model.model_id] = error.problem
            else:
                folders.append(folder)
        shutil.copyfile(path, backup)
        write_manifest(path, taken)
    for folder in folders:
        _remove_earlier(base, folder)
    return Migration(models=tuple(taken), left=left, backup=backup)


def _read_earlier(path: Path) -> list[EarlierModel] | None:
    try:
        return earlier_models(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None  # for the next reader to complain of


def _take_over(root: Path, earlier: EarlierModel, folder: Path) -> ModelInfo:
    model_id = check_model_id(earlier.model_id)
    revision = check_revision(earlier.revision)
    paths = [
        path
        for path in files_of_model(model_id, folder)
        if not is_commit(path.partition("/")[0])  # of a migration that was stopped
    ]
    known = _known_to_the_hub(folder, paths)
    if known is not None:
        commit, files = known
        problems = find_problems(folder, files)
        if problems:
            raise IntegrityError(model_id, tuple(problems))
    else:
        files = records_of(folder, paths)
        commit = digest_of(files)
    _place(root, model_id, commit, folder, paths)
    return ModelInfo(
        model_id=model_id,
        revision=revision,
        commit=commit,
        path=model_folder(root, model_id, commit),
        size_bytes=sum(record.size for record in files.values()),
        last_used=earlier.last_used,
        tags={**read_traits(folder), **earlier.tags},
        files=files,
        source="hub" if known is not None else "import",
    )


def _known_to_the_hub(folder: Path, paths: list[str]) -> tuple[str, dict[str, FileRecord]] | None:
    """Return the commit and the records of files, if the hub's client noted them for each.

    It does so in ``.cache/huggingface/download/<path>.metadata``: the commit, the ETag, which is
    the file's sha256 or git's sha1, and a time, in a line each.
    """
    commits, files = set(), {}
    for path in paths:
        note = folder / ".cache" / "huggingface" / "download" / f"{path}.metadata"
        try:
            commit, checksum, *_ = note.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return None
        commits.add(commit)
        algorithm = "git_sha1" if is_commit(checksum) else "sha256"
        size = (folder / path).stat().st_size
        files[path] = FileRecord(size=size, algorithm=algorithm, checksum=checksum)
    if len(commits) != 1 or not all(map(is_commit, commits)):
        return None
    return commits.pop(), files


def _place(root: Path, model_id: str, commit: str, folder: Path, paths: list[str]) -> None:
    """Give the files their place in the registry as second names, or copies where it must be."""
    staged = staging_folder(root, model_id, "migration")
    remove_tree(staged)
    for path in paths:
        source, target = (folder / path).resolve(strict=True), staged / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another disk, or one that has no second names
            shutil.copyfile(source, target)
    final = model_folder(root, model_id, commit)
    check_inside(root, final)
    remove_tree(final)  # of a migration that was stopped
    move_into_place(staged, final)


def _remove_earlier(root: Path, folder: Path) -> None:
    """Remove the files that have another name now; a folder outside the registry stays.

    That of a model without an owner, ``<root>/gpt2``, is where its commits are now.
    """
    if folder.parent != root or folder.is_symlink():
        return
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_file():
                path.unlink()
            elif not is_commit(path.name):
                remove_tree(path)
        folder.rmdir()
