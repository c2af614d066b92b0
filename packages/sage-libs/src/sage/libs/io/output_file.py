"""Steps of writing a file so that it outlives a power cut, and has one writer."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sage.common.core.durable_files import sync_path
from sage.common.core.file_locks import NO_LOCKS
from sage.common.core.local_path import local_path
from sage.libs.io.errors import OutputFileError

logger = logging.getLogger(__name__)


def output_path(path: str | os.PathLike[str]) -> Path:
    """Return the file that an output is to be: of a link, what it leads to.

    Raises NotALocalPathError, and OutputFileError for what is there and no file. A device would be
    replaced by one, for every program of the machine.
    """
    found = local_path(path)
    if found.is_dir() or not found.name:
        raise OutputFileError(str(path), "it is a folder", hint="name a file")
    if found.exists() and not found.is_file():
        raise OutputFileError(
            str(path), "it is a device or a pipe, which no file can replace", hint="name a file"
        )
    return found.resolve() if found.is_symlink() else found


def partial_path(path: Path) -> Path:
    """Return where an output lies until it is complete."""
    return path.with_name(f"{path.name}.partial")


def open_locked(path: Path) -> BinaryIO:
    """Open a file for reading and writing, made if absent, its folder too.

    Raises OutputFileError if it cannot be, or if another run has it open.
    """
    while True:
        file = _open(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            hint = "wait for its end or write elsewhere"
            raise OutputFileError(str(path), "another run is writing it", hint=hint) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                file.close()
                raise
            logger.warning(
                "the file system of %s has no locks: see to it that no second run writes there",
                path,
            )
        if _is_named(file, path):
            sync_path(path.parent)
            return file
        file.close()  # another run has published it before its lock could be had


def _open(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOSPC):
            raise  # it is not about this path
        reason = f"it cannot be written: {error.strerror or error}"
        raise OutputFileError(str(path), reason, hint="write to another folder") from error
    return os.fdopen(descriptor, "r+b", buffering=1 << 20)


def sync(file: BinaryIO) -> None:
    """Bring what was written to the disk."""
    file.flush()
    os.fsync(file.fileno())


def close(file: BinaryIO) -> None:
    """Close a file; what is not brought to the disk by now nobody counts on, so it may be lost."""
    with suppress(OSError):  # the disk is full, which is told already
        file.close()


def replace(old: Path, new: Path) -> None:
    """Rename a file or folder; on return the new name outlives a power cut.

    A file whose new name is a mount of its own, as a container's may be, is copied into it.
    """
    try:
        old.replace(new)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV) or not old.is_file():
            raise
        shutil.copyfile(old, new)
        sync_path(new)
        old.unlink()  # only now: until here a run that is continued writes it again
    sync_path(new.parent)


def _is_named(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
