"""A plain table that fits its terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from sage.tools.cli.terminal.output import escape, is_rich

_GAP = "  "


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column; where it gets narrow, those of the lowest `priority` are left out first."""

    title: str
    priority: int
    right: bool = False


def write_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows to stdout, whole in a pipe; on a terminal, fitted to its width."""
    cells = [[escape(cell) for cell in row] for row in rows]
    widths = [
        max(len(column.title), *(len(row[index]) for row in cells)) if cells else len(column.title)
        for index, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    if sys.stdout.isatty():
        shown = _fit(columns, widths, os.get_terminal_size(sys.stdout.fileno()).columns)
    bold, plain = ("\x1b[1m", "\x1b[0m") if is_rich(sys.stdout) else ("", "")
    header = _line([column.title for column in columns], columns, widths, shown)
    lines = [f"{bold}{header}{plain}", *(_line(row, columns, widths, shown) for row in cells)]
    print("\n".join(lines))  # at once: a thousand lines are a thousand writes where unbuffered


def _fit(columns: Sequence[Column], widths: list[int], available: int) -> list[int]:
    """Return the columns that fit; the first one is shortened as far as is left for it."""
    shown = list(range(len(columns)))
    available = available or sys.maxsize  # a terminal that does not tell its size

    def taken() -> int:
        return sum(widths[index] for index in shown) + len(_GAP) * (len(shown) - 1)

    while taken() > available and len(shown) > 2:
        shown.remove(min(shown[1:], key=lambda index: columns[index].priority))
    if taken() > available:
        widths[shown[0]] = max(8, widths[shown[0]] - (taken() - available))
    return shown


def _line(
    row: Sequence[str], columns: Sequence[Column], widths: list[int], shown: list[int]
) -> str:
    cells = [
        (str.rjust if columns[index].right else str.ljust)(
            _shorten(row[index], widths[index]), widths[index]
        )
        for index in shown
    ]
    return _GAP.join(cells).rstrip()


def _shorten(text: str, width: int) -> str:
    """Cut a text at its beginning: the end of a model's id says more than its owner."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]
