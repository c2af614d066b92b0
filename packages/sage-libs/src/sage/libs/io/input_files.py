"""input_files(): the files that a path stands for."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from sage.libs.io.compression import SUFFIXES
from sage.libs.io.errors import InputFileError, MissingInputError


def input_files(path: Path, suffix: str) -> list[Path]:
    """Return a file as it is, or a folder's files of one suffix by name, compressed ones too.

    Always in the same order, because a run that is continued counts its records. Raises
    MissingInputError if there is none, and InputFileError if a folder has one file both
    compressed and not, which would be read twice.
    """
    if path.is_dir():
        patterns = [f"*{suffix}", *(f"*{suffix}{packed}" for packed in SUFFIXES)]
        found = {file for pattern in patterns for file in path.glob(pattern)}
        files = sorted(file for file in found if not (file.name.startswith(".") or file.is_dir()))
        if not files:
            raise MissingInputError(str(path), f"folder {path} holds no *{suffix} file")
        for file in files:
            if file.suffix in SUFFIXES and file.with_suffix("") in found:
                problem = f"it holds both {file.stem} and {file.name}"
                hint = "remove one of the two, or name the file to read"
                raise InputFileError(str(path), None, problem, hint=hint)
        return files
    if not path.exists():
        problem = f"there is no file or folder {path}"
        where = None if path.is_absolute() else f"the working directory is {Path.cwd()}"
        raise MissingInputError(str(path), problem, hint=where)
    return [path]


def no_records() -> Generator[Any, None, None]:
    """Yield nothing: what a source emits before it has looked for its files."""
    yield from ()
