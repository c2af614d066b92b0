"""Registering a model that is already on this machine."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from sage.common.core.local_path import local_path
from sage.common.model_registry.checksums import records_of
from sage.common.model_registry.errors import InvalidModelFolderError
from sage.common.model_registry.layout import check_disk, registry_root, remove_tree, staging_folder
from sage.common.model_registry.manifest import read_manifest
from sage.common.model_registry.model_id import check_file_path, check_model_id, check_revision
from sage.common.model_registry.publishing import publish, writing_model
from sage.common.model_registry.weight_errors import IncompleteModelError
from sage.common.model_registry.weights import lfs_pointers, missing_weights

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from sage.common.model_registry.model_info import FileRecord, ModelInfo, Tag

_PROOFS_OF_A_MODEL = ("config.json", "params.json", "*.gguf", "adapter_config.json")


def import_model(
    model_id: str,
    folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    tags: Mapping[str, Tag] | None = None,
    link: bool = False,
    root: str | os.PathLike[str] | None = None,
) -> ModelInfo:
    """Register the model in `folder` under `model_id`: its files copied, or with `link` linked.

    Its revision is "local" unless one is given, its commit a digest of its files, so importing the
    same files again changes nothing but the tags. Linked files stay where they are, which must be
    outside the registry; deleting the model removes only the links. Links in the folder are
    followed. Hidden files and folders are left out.

    Raises InvalidModelIdError, InvalidModelFolderError, IncompleteModelError,
    InsufficientDiskError, RegistryNotWritableError or ManifestCorruptError.
    """
    check_model_id(model_id)
    revision = check_revision(revision if revision is not None else "local")
    source = local_path(folder).absolute()
    paths = files_of_model(model_id, source)
    base = registry_root(root)
    if link:
        _check_outside(base, model_id, source, paths)
    read_manifest(base)  # a corrupt one is better found before copying gigabytes
    with writing_model(base, model_id):
        staged = staging_folder(base, model_id, "import")
        remove_tree(staged)
        try:
            if not link:
                size = sum((source / path).stat().st_size for path in paths)
                check_disk(base, model_id, size)
            for path in paths:
                _place(source / path, staged / path, link=link)
            files = records_of(staged, paths)
            return publish(
                base,
                staged,
                model_id=model_id,
                revision=revision,
                commit=digest_of(files),
                files=files,
                tags=tags,
                source="import",
            )
        finally:
            remove_tree(staged)


def files_of_model(model_id: str, source: Path) -> list[str]:
    """Return the files of a folder that can be a model of the registry, as relative paths.

    Raises InvalidModelFolderError or IncompleteModelError for a folder that cannot.
    """
    if not source.is_dir():
        raise InvalidModelFolderError(model_id, source, "it is not a folder")
    if not any(any(source.glob(pattern)) for pattern in _PROOFS_OF_A_MODEL):
        raise InvalidModelFolderError(model_id, source, "it has no config.json")
    found = list(_walk(model_id, source, source, ()))
    if pointers := lfs_pointers(found):
        names = ", ".join(sorted(path.relative_to(source).as_posix() for path in pointers)[:3])
        raise InvalidModelFolderError(
            model_id,
            source,
            f"{len(pointers)} of its files are Git LFS pointers in place of their content: {names}",
            hint=f"Run `git lfs pull` in {str(source)!r}, then import it again.",
        )
    if missing := missing_weights(source):
        raise IncompleteModelError(model_id, tuple(missing), where=f"the folder {str(source)!r}")
    relative = [path.relative_to(source).as_posix() for path in found]
    return sorted(check_file_path(path, model_id=model_id) for path in relative)


def _walk(model_id: str, source: Path, folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the files under a folder; `above` are the real folders on the way to it."""
    real = folder.resolve()
    if any(each.is_relative_to(real) for each in above):
        raise _bad_entry(model_id, source, folder, "is a link back to a folder that it is in")
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(model_id, source, path, (*above, real))
        elif path.is_file():
            yield path
        elif path.exists():
            raise _bad_entry(model_id, source, path, "is neither a file nor a folder")
        else:
            raise _bad_entry(model_id, source, path, f"is a link to {path.readlink()}, not there")


def _bad_entry(model_id: str, source: Path, path: Path, what: str) -> InvalidModelFolderError:
    return InvalidModelFolderError(
        model_id,
        source,
        f"{str(path.relative_to(source))!r} in it {what}",
        hint="Mend or remove that, or give a folder that has only the model's files.",
    )


def _check_outside(root: Path, model_id: str, source: Path, paths: list[str]) -> None:
    for path in paths:
        if (source / path).resolve().is_relative_to(root.resolve()):
            raise InvalidModelFolderError(
                model_id,
                source,
                f"its {path!r} lies in the registry itself, and a link to it would break when the "
                f"model that has it is replaced or deleted",
                hint="Import it without --link (`link=True`), so that the files are copied.",
            )


def _place(source: Path, target: Path, *, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.symlink_to(source.resolve(strict=True))
    else:
        shutil.copyfile(source, target)


def digest_of(files: Mapping[str, FileRecord]) -> str:
    """Forty hex digits, like a commit of the hub, that change with any byte of any file."""
    listing = "".join(f"{path}\0{files[path].checksum}\n" for path in sorted(files))
    return hashlib.sha256(listing.encode()).hexdigest()[:40]
