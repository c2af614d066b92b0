"""local_path(): the file or folder of this machine that a user's path names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sage.common.core.errors import SageError

# A Path has made "s3://bucket" into "s3:/bucket"; one letter is a drive, not a scheme.
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/")


class NotALocalPathError(SageError, ValueError):
    """A path that names nothing on this machine's file systems; ``path`` is as it was given."""

    def __init__(self, path: str, problem: str, hint: str) -> None:
        super().__init__(problem, hint=hint)
        self.path = path


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return a path with a leading ``~`` or ``~user`` expanded.

    Raises NotALocalPathError for an address such as ``s3://bucket/key``, which would otherwise
    become a folder ``s3:`` in the working directory, and for a ``~`` whose home nobody knows.
    """
    given = os.fspath(path)
    if found := _ADDRESS.match(given):
        if found["scheme"].lower() == "file":
            hint = "write the path without file://"
        else:
            hint = "copy the file to this machine, or mount what holds it, and give that path"
        raise NotALocalPathError(given, f"{given} is an address, not a path of this machine", hint)
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        problem = f"{given} cannot be expanded: {error}"
        raise NotALocalPathError(given, problem, "write the home folder out") from error
