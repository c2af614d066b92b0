"""Sizes and checksums of files, as the hub states them."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, TypeVar

from sage.common.model_registry.model_info import FileRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

_CHUNK = 1 << 20

Item = TypeVar("Item")
Result = TypeVar("Result")


def record_of(path: Path) -> FileRecord:
    """Return the record of a file on this disk, by sha256."""
    return FileRecord(
        size=path.stat().st_size, algorithm="sha256", checksum=_digest(path, "sha256")
    )


def problem_with(path: Path, expected: FileRecord) -> str | None:
    """Say what is wrong with a file: "missing", "size" or "checksum"; None if nothing is."""
    try:
        if problem := _size_problem(path, expected):
            return problem
        return None if _digest(path, expected.algorithm) == expected.checksum else "checksum"
    except FileNotFoundError:  # removed meanwhile
        return "missing"


def find_size_problems(folder: Path, expected: Mapping[str, FileRecord]) -> dict[str, str]:
    """As `find_problems`, without reading the files: path -> "missing" or "size"."""
    found = ((path, _size_problem(folder / path, record)) for path, record in expected.items())
    return {path: problem for path, problem in found if problem}


def find_problems(
    folder: Path,
    expected: Mapping[str, FileRecord],
    *,
    on_checked: Callable[[str, int], None] | None = None,
) -> dict[str, str]:
    """Check files against their records, several at once; returns path -> what is wrong.

    `on_checked` is called with each path and its size when it is done, from any thread.
    """

    def check(item: tuple[str, FileRecord]) -> tuple[str, str | None]:
        path, record = item
        problem = problem_with(folder / path, record)
        if on_checked is not None:
            on_checked(path, record.size)
        return path, problem

    return {path: problem for path, problem in _in_threads(check, expected.items()) if problem}


def records_of(folder: Path, paths: Iterable[str]) -> dict[str, FileRecord]:
    """Return the records of several files of a folder, read several at once."""
    return dict(_in_threads(lambda path: (path, record_of(folder / path)), paths))


def _size_problem(path: Path, expected: FileRecord) -> str | None:
    try:
        if not path.is_file():
            return "missing"
        return None if path.stat().st_size == expected.size else "size"
    except FileNotFoundError:  # removed meanwhile
        return "missing"


def _in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    from concurrent.futures import ThreadPoolExecutor  # and with it logging: not for a look-up

    # hashlib lets go of the GIL, so threads do hash in parallel.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def _digest(path: Path, algorithm: str) -> str:
    if algorithm == "sha256":
        hasher = hashlib.sha256()
    else:  # git's object id: sha1 over a header and the content
        hasher = hashlib.sha1(usedforsecurity=False)
        hasher.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()
