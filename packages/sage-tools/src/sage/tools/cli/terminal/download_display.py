"""A download as it looks on a terminal: a bar for all of it, a line for each file under way."""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from sage.common.model_registry.vllm_registry import (
    DownloadStatus,
    LineWatcher,
    format_bytes,
    format_seconds,
)
from sage.tools.cli.errors import Interrupted
from sage.tools.cli.terminal.output import escape, is_rich

_MOST_FILES = 5
_REDRAW_EVERY = 0.1
_SPEED_OVER = 5.0
_LEAST_SHARE = 200
"""A speed is told once one part in so many has come within the time above."""
_PHASES = {
    "resolving": "asking the hub",
    "waiting": "another process is writing this model, waiting for it",
    "verifying": "verifying",
    "downloading": "downloading",
    "done": "complete",
}


@contextmanager
def download_display(*, quiet: bool) -> Iterator[Callable[[DownloadStatus], None]]:
    """Whom to tell about a download: a display on a terminal, plain lines elsewhere, or nobody.

    Ctrl-C within raises Interrupted, which says what becomes of the download.
    """
    display = DownloadDisplay(sys.stderr) if is_rich(sys.stderr) and not quiet else None
    try:
        yield display or ((lambda _: None) if quiet else LineWatcher(sys.stderr))
    except KeyboardInterrupt:
        raise Interrupted("Run the same command again to go on: complete files are kept.") from None
    finally:
        if display is not None:
            display.clear()


class DownloadDisplay:
    """Draws a status over the one before it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn = 0
        self._phase = ""
        self._next = 0.0
        self._samples: deque[tuple[float, int]] = deque()

    def __call__(self, status: DownloadStatus) -> None:
        """Draw a status, unless one was drawn just now."""
        now = time.monotonic()
        if status.phase == self._phase and now < self._next:
            return
        if status.phase != self._phase:
            self._samples.clear()
        self._phase, self._next = status.phase, now + _REDRAW_EVERY
        self._samples.append((now, status.done_bytes))
        while now - self._samples[0][0] > _SPEED_OVER:
            self._samples.popleft()
        width = (os.get_terminal_size(self._stream.fileno()).columns or 80) - 1
        self._draw([clip(line, width) for line in self._lines(status, width)])

    def clear(self) -> None:
        """Take the display off the screen."""
        self._draw([])

    def _draw(self, lines: list[str]) -> None:
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._stream.write(f"\r{up}\x1b[J" + "".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)

    def _lines(self, status: DownloadStatus, width: int) -> list[str]:
        heading = f"{status.model_id}: {_PHASES[status.phase]}"
        if not status.total_bytes:
            return [heading]
        lines = [heading, self._total_line(status, width)]
        for file in status.active[:_MOST_FILES]:
            amount = f"{format_bytes(file.done_bytes)} of {format_bytes(file.total_bytes)}"
            name = clip(escape(file.path), max(8, width - len(amount) - 4))
            lines.append(f"  {name}  {amount}")
        if len(status.active) > _MOST_FILES:
            lines.append(f"  and {len(status.active) - _MOST_FILES} more files")
        return lines

    def _total_line(self, status: DownloadStatus, width: int) -> str:
        share = status.done_bytes / status.total_bytes
        parts = [
            f"{share:4.0%}" if share >= 1 else f"{int(share * 100):3}%",
            f"{format_bytes(status.done_bytes)} of {format_bytes(status.total_bytes)}",
        ]
        speed = self._speed(status.total_bytes)
        if speed > 0:
            left = (status.total_bytes - status.done_bytes) / speed
            parts += [f"{format_bytes(speed)}/s", f"{format_seconds(left)} left"]
        parts.append(f"{status.done_files} of {status.total_files} files")
        # Where it is narrow, what matters least goes first.
        while len(" ".join(parts)) > width and len(parts) > 1:
            parts.pop()
        text = " ".join(parts)
        room = min(30, width - len(text) - 1)
        if room < 8:
            return text
        filled = int(room * share)
        return f"{'█' * filled}{'░' * (room - filled)} {text}"

    def _speed(self, total: int) -> float:
        (since, before), (now, count) = self._samples[0], self._samples[-1]
        if now <= since or (count - before) * _LEAST_SHARE < total:
            return 0.0  # the small files at the start would promise days
        return (count - before) / (now - since)


def clip(text: str, width: int) -> str:
    """Return the text, cut to so many columns; a wide character takes two."""
    if len(text) * 2 <= width:
        return text
    taken = 0
    for index, char in enumerate(text):
        size = 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if taken + size > width:
            return text[: max(0, index - 1)] + "…"
        taken += size
    return text
