"""One line on a terminal that says what goes on, and is gone when it is done."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sage.tools.cli.terminal.download_display import clip
from sage.tools.cli.terminal.output import escape, is_rich


@contextmanager
def status_line(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Whom to tell what goes on; an empty text clears the line. Off a terminal nothing is said."""
    if quiet or not is_rich(sys.stderr):
        yield lambda _: None
        return

    def show(text: str) -> None:
        width = (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1
        sys.stderr.write(f"\r\x1b[K{clip(escape(text), width)}")
        sys.stderr.flush()

    try:
        yield show
    finally:
        show("")
