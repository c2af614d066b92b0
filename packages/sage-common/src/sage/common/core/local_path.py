"""The file or folder of this machine that a user's path names, and where a user's own lie.

NotALocalPathError    (ValueError) an address, a ``~`` whose home nobody knows, or no path at all
NoHomeFolderError     (FileNotFoundError) no home folder, and no variable that names another one
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sage.common.core.errors import SageError

# A Path has made "s3://bucket" into "s3:/bucket"; one letter is a drive, not a scheme.
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/")


class NotALocalPathError(SageError, ValueError):
    """What names nothing on this machine's file systems; ``path`` is as it was given."""

    def __init__(self, path: str, problem: str, hint: str) -> None:
        super().__init__(problem, hint=hint)
        self.path = path


class NoHomeFolderError(SageError, FileNotFoundError):
    """A folder of the user's has no place; ``variable`` in the environment can name one."""

    def __init__(self, folder: str, variable: str) -> None:
        problem = f"{folder} has no place: HOME is not set, and user {os.getuid()} has no home"
        super().__init__(problem, hint=f"set {variable} to a folder")
        self.folder = folder
        self.variable = variable


def user_folder(variable: str, default: str) -> Path:
    """Return the folder that a variable of the environment names, else ``default``, absolute.

    Raises NoHomeFolderError where it begins with ``~`` and there is no home, as for a container's
    user without an entry in /etc/passwd.
    """
    folder = os.environ.get(variable) or default
    try:
        return Path(folder).expanduser().absolute()
    except RuntimeError:
        raise NoHomeFolderError(folder, variable) from None


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return a path with a leading ``~`` or ``~user`` expanded.

    Raises NotALocalPathError for an address such as ``s3://bucket/key``, which would otherwise
    become a folder ``s3:`` in the working directory, for a ``~`` whose home nobody knows, and for
    what is no path: an empty text would be the working directory.
    """
    given = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not given or not isinstance(given, str):
        hint = "give the path of a file or folder, as a string or a Path"
        raise NotALocalPathError(repr(path), f"{path!r} is no path", hint)
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
