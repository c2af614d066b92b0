"""Locks of files where the file system has them, and what to do where it has not.

Some network and FUSE file systems are mounted without locks: the system then refuses to take one,
whoever asks. ``has_locks`` tells, by trying.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from filelock import BaseFileLock

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def has_locks(folder: Path) -> bool:
    """Whether files in a folder can be locked; True where no file can be made in it."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as SQLite takes them
    except OSError as error:
        return error.errno not in NO_LOCKS
    return True


def file_lock(path: str | os.PathLike[str], **options: Any) -> BaseFileLock:
    """Return a lock among processes, not taken yet; the folder has to be there.

    Where the file system has no locks, it is a file that names its holder: one that a killed
    process of this machine left is taken over, and one of another machine has to be removed by
    hand.
    """
    from filelock import FileLock, SoftFileLock  # takes as long to import as a whole registry

    if has_locks(Path(path).parent):
        return FileLock(path, **options)
    return SoftFileLock(f"{os.fspath(path)}.held", **options)
