"""Progress of the training: one line that moves on a terminal, a few lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

_LINES_OFF_TERMINAL = 4


@dataclass(kw_only=True)
class TrainingProgress:
    """Writes to standard error, so that standard output holds results alone."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    _started: float = field(default_factory=time.monotonic)
    _shown: int = -1

    def update(self, step: int, steps: int) -> None:
        """Say how many of the steps planned so far are done, where that is news."""
        moving = self.stream.isatty() and not os.environ.get("NO_COLOR")
        parts = 100 if moving else _LINES_OFF_TERMINAL
        part = step * parts // steps
        if part == self._shown:
            return
        self._shown = part
        start, end = ("\r", "") if moving else ("", "\n")
        self._write(f"{start}Training the demo model: {100 * step // steps:3d} %{end}")

    def finish(self, summary: str) -> None:
        """End the line that moves and say how it went."""
        moving = self.stream.isatty() and not os.environ.get("NO_COLOR")
        seconds = time.monotonic() - self._started
        start = "\r" if moving else ""
        self._write(f"{start}Trained the demo model in {seconds:.0f} s: {summary}\n")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
