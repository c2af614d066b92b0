"""NotebookCell: the output of a notebook's cell, drawn again in place."""

from __future__ import annotations

import sys
from typing import Any


class NotebookCell:
    """A place in a cell's output that ``show`` fills, each time in place of the time before."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @classmethod
    def here(cls) -> NotebookCell | None:
        """Return a place in the cell that is being run; None outside of a notebook."""
        ipython: Any = sys.modules.get("IPython")  # a notebook has loaded it
        shell = ipython.get_ipython() if ipython else None
        if not hasattr(shell, "kernel"):  # as in IPython's terminal
            return None
        return cls(ipython.display.display(_bundle("", ""), raw=True, display_id=True))

    def show(self, html: str, text: str) -> None:
        """Show the HTML, or the text where there is no HTML."""
        self._handle.update(_bundle(html, text), raw=True)


def _bundle(html: str, text: str) -> dict[str, str]:
    return {"text/html": html, "text/plain": text}
