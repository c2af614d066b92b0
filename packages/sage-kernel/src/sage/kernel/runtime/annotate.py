"""annotate(): says where an error came up, without changing its type or its message."""

from __future__ import annotations

from contextlib import suppress


def annotate(error: BaseException, note: str) -> None:
    """Add a note to an error, if it accepts one: one that is a frozen dataclass does not."""
    with suppress(Exception):
        error.add_note(note)
