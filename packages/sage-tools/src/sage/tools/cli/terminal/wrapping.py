"""Text that fits its terminal; in a pipe it is left as it is."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence

from sage.tools.cli.terminal.output import escape

_WIDE = 60


def stdout_width() -> int:
    """Return the columns of the terminal that stdout is, 0 if it is none or does not tell."""
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 0


def is_narrow(width: int) -> bool:
    """Whether text belongs below names, not beside them."""
    return 0 < width < _WIDE


def wrapped(text: str, room: int, column: int) -> list[str]:
    """Return the lines of a text in so many columns, those after the first one indented."""
    if room < 1 or len(text) <= room:
        return [text]
    return textwrap.wrap(
        text,
        max(room, 20),
        subsequent_indent=" " * (column or 2),
        break_on_hyphens=False,
        break_long_words=False,  # a path can be copied only if it is whole
    )


def write_fields(fields: Sequence[tuple[str, str]], column: int) -> None:
    """Print names and what they stand for, which begins in a column where there is room."""
    width = stdout_width()
    column = 0 if is_narrow(width) else column
    for name, value in fields:
        named = f"{name + ':':<{column}}" if column else f"{name}: "
        for line in wrapped(escape(f"{named}{value}"), width, column):
            print(line)
