"""What a download tells whoever watches it, and the plain watcher for a log or a pipe."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

Phase = Literal["resolving", "waiting", "downloading", "verifying", "done"]
_LINE_EVERY = 5.0


@dataclass(frozen=True, kw_only=True)
class FileProgress:
    """One file on its way; sizes in bytes."""

    path: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class DownloadStatus:
    """How far a download is; sizes in bytes."""

    model_id: str
    phase: Phase
    done_bytes: int = 0
    total_bytes: int = 0
    done_files: int = 0
    total_files: int = 0
    active: tuple[FileProgress, ...] = ()


if TYPE_CHECKING:
    Progress = bool | Callable[[DownloadStatus], None]
    """True for plain lines on stderr, False for silence, or whom to tell."""


def watcher_of(progress: Progress) -> Callable[[DownloadStatus], None]:
    """Return the watcher for what a caller passed as `progress`."""
    if callable(progress):
        return progress
    return LineWatcher(sys.stderr) if progress else lambda _: None


class LineWatcher:
    """One plain line every few seconds, and one for every new phase."""

    def __init__(self, stream: TextIO, *, every: float = _LINE_EVERY) -> None:
        self._stream = stream
        self._every = every
        self._phase: Phase | None = None
        self._next = 0.0
        self._started: tuple[float, int] | None = None

    def __call__(self, status: DownloadStatus) -> None:
        """Write a line if one is due."""
        now = time.monotonic()
        if status.phase == self._phase and now < self._next:
            return
        if status.phase == "downloading" and self._started is None:
            self._started = now, status.done_bytes
        self._phase, self._next = status.phase, now + self._every
        self._stream.write(f"{status.model_id}: {self._text(status, now)}\n")
        self._stream.flush()

    def _text(self, status: DownloadStatus, now: float) -> str:
        match status.phase:
            case "resolving":
                return "asking the hub"
            case "waiting":
                return "another process is writing this model, waiting for it"
            case "done":
                return "complete"
        parts = [
            f"{status.phase} {format_bytes(status.done_bytes)} of "
            f"{format_bytes(status.total_bytes)} ({percent(status)}%), "
            f"{status.done_files} of {status.total_files} files"
        ]
        if status.phase == "downloading" and self._started is not None:
            since, at = self._started
            speed = (status.done_bytes - at) / (now - since) if now > since else 0.0
            if speed > 0:
                left = (status.total_bytes - status.done_bytes) / speed
                parts.append(f"{format_bytes(speed)}/s, {format_seconds(left)} left")
        return ", ".join(parts)


def percent(status: DownloadStatus) -> int:
    """Whole percent, and 100 only for all of it."""
    return 100 * status.done_bytes // status.total_bytes if status.total_bytes else 0


def format_bytes(count: float) -> str:
    """1536 -> "1.5 kB"; decimal units, as disks and hubs state sizes."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.95 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable: the last unit takes any size")


def format_seconds(seconds: float) -> str:
    """75 -> "1:15"."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
