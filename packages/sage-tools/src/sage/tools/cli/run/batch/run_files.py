"""The files of a run, all beside its output."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sage.libs.io.text_lines import text_lines


@dataclass(frozen=True)
class RunFiles:
    """Where a run keeps what, by the path of its output."""

    output: Path

    @property
    def failed(self) -> Path:
        """The records that failed, each with its line and error."""
        return self._beside("failed")

    @property
    def checkpoint(self) -> Path:
        """The folder by which a run that stopped goes on; gone when it is at its end."""
        return self._beside("checkpoint")

    @property
    def made_by(self) -> Path:
        """What made the output; there when the run is at its end."""
        return self._beside("run")

    @property
    def missing(self) -> Path:
        """The folder in which lines whose answers are missing are run."""
        return self._beside("missing")

    def count(self) -> tuple[int, int]:
        """How many records there were, and how many of them failed."""
        failed = sum(1 for _ in lines_of(self.failed))
        return sum(1 for _ in lines_of(self.output)) + failed, failed

    def forget_unfinished(self) -> None:
        """Remove what a run that stopped would go on from."""
        for folder in (self.checkpoint, self.missing):
            shutil.rmtree(folder, ignore_errors=True)

    def drop_empty_failed(self) -> None:
        """Remove the file of failed records where there are none."""
        if self.failed.is_file() and not self.failed.stat().st_size:
            self.failed.unlink()

    def _beside(self, what: str) -> Path:
        return self.output.with_name(f"{self.output.name}.{what}")


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of an output; none if it is not there."""
    if path.is_file():
        for _, line in text_lines(path):
            yield line
