"""Reading the log of a server, however long it is."""

from __future__ import annotations

import os
from pathlib import Path

_LINE_BYTES = 256


def last_lines(log: Path, count: int, *, end: int | None = None) -> list[str]:
    """Return the last lines before byte ``end``, or of all of it; empty if there is no log."""
    size = _LINE_BYTES * (count + 1)
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END) if end is None else end
            while True:
                start = max(0, end - size)
                file.seek(start)
                lines = file.read(end - start).decode(errors="replace").split("\n")
                if lines[-1] == "":
                    lines.pop()
                if start == 0 or len(lines) > count:  # the first may be half a line
                    return lines[-count:] if count else []
                size *= 4
    except FileNotFoundError:
        return []
