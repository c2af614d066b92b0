"""input_files(): the files that a path stands for."""

from __future__ import annotations

from pathlib import Path


def input_files(path: Path, suffix: str) -> list[Path]:
    """Return a file as it is, or a folder's files of one suffix by name; raises if there is none.

    Always in the same order, because a run that is continued counts its records.
    """
    if path.is_dir():
        files = sorted(file for file in path.glob(f"*{suffix}") if not file.name.startswith("."))
        if not files:
            raise FileNotFoundError(f"folder {path} holds no *{suffix} file")
        return files
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    return [path]
