"""Where things lie under the registry's root.

::

    <root>/metadata.json                    the manifest, and metadata.json.lock beside it
    <root>/<model-id>/<commit>/...          complete, verified models and nothing else
    <root>/.staging/<owner--name>/<commit>  downloads on their way
    <root>/.locks/<owner--name>.lock        held while a model is being written
    <root>/.trash/<random>                  on its way out

Where one of these is a mount of its own, ``.<commit>`` beside a model's folder is what is on its
way to it from another disk, or on its way out.

Model ids cannot begin with a dot or contain "--", so none of these names can meet another.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sage.common.core.local_path import local_path, user_folder
from sage.common.model_registry.errors import InsufficientDiskError, RegistryNotWritableError
from sage.common.model_registry.model_id import check_model_id

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT_VARIABLE = "SAGE_VLLM_MODEL_ROOT"


def registry_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the root asked for, else SAGE_VLLM_MODEL_ROOT, else ~/.sage/models/vllm.

    Raises NotALocalPathError, or NoHomeFolderError where it is to be at home and there is none.
    """
    if root is not None:
        return local_path(root).absolute()
    return user_folder(ROOT_VARIABLE, "~/.sage/models/vllm")


def manifest_path(root: Path) -> Path:
    """Return the manifest of the registry at `root`."""
    return root / "metadata.json"


def model_folder(root: Path, model_id: str, commit: str) -> Path:
    """Where the files of one commit of a model live."""
    return root / check_model_id(model_id) / commit


def staging_folder(root: Path, model_id: str, commit: str) -> Path:
    """Where the files of one commit gather before they are complete."""
    folder = root / ".staging" / check_model_id(model_id).replace("/", "--") / commit
    check_inside(root, folder / "any file")
    return folder


def lock_path(root: Path, model_id: str) -> Path:
    """Return the path of the lock held by whoever writes files of this model."""
    return root / ".locks" / f"{check_model_id(model_id).replace('/', '--')}.lock"


def check_inside(root: Path, folder: Path) -> None:
    """Raise RegistryNotWritableError if a link on the way to `folder` leads out of the root."""
    if not folder.parent.resolve().is_relative_to(root.resolve()):
        raise RegistryNotWritableError(root, f"a link leads from {str(folder)!r} out of it")


def move_to_trash(root: Path, folder: Path) -> Path:
    """Take a folder out of sight in one step; the caller removes it at leisure."""
    check_inside(root, folder)
    trash = root / ".trash" / os.urandom(8).hex()
    check_inside(root, trash)
    trash.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.rename(trash)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        trash = folder.with_name(f".{folder.name}")  # out of sight on its own disk
        remove_tree(trash)
        folder.rename(trash)
    return trash


def move_into_place(staged: Path, final: Path) -> None:
    """Give a staged folder its place in one step, from another disk too."""
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(final)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copied = final.with_name(f".{final.name}")  # one name: a left-over is replaced
        remove_tree(copied)
        shutil.copytree(staged, copied, symlinks=True)
        copied.rename(final)
        remove_tree(staged)


def remove_tree(folder: Path) -> None:
    """Remove a folder; symbolic links in it are removed, what they point at is not touched."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def check_disk(root: Path, model_id: str, needed: int) -> None:
    """Raise InsufficientDiskError if the disk under the root has fewer than `needed` bytes free."""
    free = shutil.disk_usage(root).free
    if needed > free:
        raise InsufficientDiskError(model_id, root, needed=needed, free=free)


@contextmanager
def writing(root: Path, model_id: str = "") -> Iterator[None]:
    """Turn the system's "not permitted" and "disk full" into the registry's own errors."""
    try:
        yield
    except (RegistryNotWritableError, InsufficientDiskError):
        raise
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise RegistryNotWritableError(root, error.strerror or str(error)) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(root).free
            raise InsufficientDiskError(model_id, root, needed=None, free=free) from error
        raise
