"""SocketFolder: where the sockets of one engine lie, and what is left of engines that were killed.

The processes of an engine talk through sockets that are files, and vLLM leaves these for good. So
each engine has a folder for them, which is removed when it is closed. Nobody can do that for an
engine whose host is killed: the next one that starts on this machine does. It knows such a folder
by its lock, which ends with the host and its forks.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from weakref import finalize

from sage.common.core.file_locks import NO_LOCKS

VARIABLE = "VLLM_RPC_BASE_PATH"
"""vLLM's: the folder of its sockets."""

_PREFIX = "sage-engine-"
_LONGEST = 50  # bytes of the path above: all of a socket's path may have 107


class SocketFolder:
    """A folder that nobody but this user can look into; its lock is held until ``remove()``."""

    def __init__(self) -> None:
        above = _above()
        remove_abandoned(above)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=above))
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            if _taken(self._lock, self.path):
                break
            os.close(self._lock)  # another start took it for an abandoned one
        self._removed = finalize(self, _remove, self.path, self._lock, os.getpid())

    @property
    def environment(self) -> dict[str, str]:
        """What makes vLLM use it."""
        return {VARIABLE: str(self.path)}

    def fileno(self) -> int:
        """Return the lock: a process that inherits it keeps the folder."""
        return self._lock

    def remove(self) -> None:
        """Remove it, if it is there; an interpreter that ends does so by itself."""
        self._removed()

    def let_go(self) -> None:
        """Leave it to a process that has inherited its lock, and to the next start after it."""
        if self._removed.detach() is not None:
            os.close(self._lock)


def remove_abandoned(above: Path | None = None) -> None:
    """Remove the folders of this user's engines that have ended without doing so."""
    for folder in (above or _above()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # removed by another start, or another user's
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.geteuid():
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _above() -> Path:
    """Return the folder for folders: vLLM's own, or where there is room for a socket's name."""
    above = os.path.abspath(os.environ.get(VARIABLE) or tempfile.gettempdir())  # noqa: PTH100 - of a text
    short = "/tmp"
    is_long = len(os.fsencode(above)) > _LONGEST and os.access(short, os.W_OK)
    return Path(short if is_long else above)


def _remove(path: Path, lock: int, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork, which has inherited it
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _taken(lock: int, path: Path) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        return error.errno in NO_LOCKS  # nobody else can take it either
    return path.exists()
