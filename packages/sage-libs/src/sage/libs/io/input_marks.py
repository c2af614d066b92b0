"""InputMarks: what tells an input again when a run goes on, and what became of it since.

An input is a sequence of pieces: bytes, with the number of records that end with them. Its marks
are digests of all bytes up to some of these ends, at first up to each, then, so that they stay
few, up to every second, fourth and so on. The first mark that differs therefore says how many
records are surely as they were; records that follow the last one were added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sage.kernel.runtime.checkpoint import InputChange
from sage.libs.io.text_lines import text_lines

Pieces = Callable[[Path], Iterator[tuple[int, bytes]]]
"""Gives the pieces of a file."""

_MOST = 1024  # marks, after which every second is dropped
_CHUNK = 1 << 20  # bytes


def line_pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line of a text file that is a record, as UTF-8 without its end."""
    for _, line in text_lines(path):
        yield 1, line.rstrip() + b"\n"


def whole_piece(path: Path, records: int) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes of a file whose records end with it."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield 0, chunk
    yield records, b""


def fingerprint(files: Sequence[Path], pieces: Pieces) -> dict[str, Any]:
    """Return what tells these files again, as JSON; reads them once."""
    if not all(file.is_file() for file in files):
        return {"files": [], "marks": []}  # a pipe can be read only once
    marks: list[tuple[int, str]] = []
    digest, records, ends, step = hashlib.sha256(), 0, 0, 1
    stats = _stats(files)  # first: what changes meanwhile is noticed
    for count, data in _all(files, pieces):
        digest.update(data)
        if not count:
            continue
        records += count
        ends += 1
        if ends % step == 0:
            marks.append((records, digest.hexdigest()[:16]))
            if len(marks) == _MOST:
                marks, step = marks[1::2], 2 * step
    if not marks or marks[-1][0] < records:
        marks.append((records, digest.hexdigest()[:16]))
    return {"files": stats, "marks": marks}


def input_change(
    name: Path, files: Sequence[Path], pieces: Pieces, before: dict[str, Any]
) -> InputChange | None:
    """Compare files with an earlier fingerprint; None if no record is another.

    They are not read if their names, sizes and times are as they were.
    """
    if not before["files"] or _stats(files) == before["files"]:
        return None
    expected = dict(map(tuple, before["marks"]))
    total = max(expected)
    digest, records, same = hashlib.sha256(), 0, 0
    for count, data in _all(files, pieces):
        if count and records == total:
            return InputChange(what=f"{name} has more than {total} records", grew=True, first=total)
        digest.update(data)
        records += count
        if count and records in expected:
            if digest.hexdigest()[:16] != expected[records]:
                return _changed(name, same, records)
            same = records
    if records < total:
        what = f"{name} has {records} records, not {total}"
        return InputChange(what=what, first=min(same, records))
    return None


def _changed(name: Path, same: int, records: int) -> InputChange:
    which = (
        f"record {records}" if records == same + 1 else f"one of records {same + 1} to {records}"
    )
    return InputChange(what=f"{which} of {name} is another than before", first=same)


def _all(files: Sequence[Path], pieces: Pieces) -> Iterator[tuple[int, bytes]]:
    for file in files:
        yield from pieces(file)


def _stats(files: Sequence[Path]) -> list[list[Any]]:
    stats = [(file.name, file.stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
