"""HTML of records for notebooks: tables that stay short, whatever is in them."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_LONGEST_CELL = 160  # characters
_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = _LONGEST_CELL


def html_table(header: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    """Return a table with a line of text above it; texts are cut, and escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    said = f"<div>{escape(caption)}</div>" if caption else ""
    return f"{said}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    """Numbers are aligned to the right, and so are all cells in a notebook unless told."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td style="text-align: right">{value:,}</td>'
    return f'<td style="text-align: left">{escape(brief(value))}</td>'


def brief(value: Any) -> str:
    """Return a text as it is and the ``repr()`` of all else, cut where it is long."""
    text = value if isinstance(value, str) else _shorten.repr(value)
    return text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…"
