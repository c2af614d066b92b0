"""JobWriter: a job's folder, as the one process writes it that works on the job."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from sage.common.components.sage_vllm.fine_tuning import FineTuneRequest
from sage.common.components.sage_vllm.fine_tuning.job_folder import (
    EVENTS,
    REPORT,
    events_after,
    read_job,
)
from sage.common.core.durable_files import sync_path, write_whole
from sage.tuning.data.rendering import Row
from sage.tuning.data.rows import Rows
from sage.tuning.settings import Settings, settings_from_json

EVALUATED = 512
"""So many of the rows that are held out tell enough, and each evaluation reads all of them."""
TRAINED = "trained.json"
"""The figures of the training, written once its result is: what is left is to verify it."""
ROWS = ("training", "held_out", "replay", "rejected", "held_out_rejected")


class JobWriter:
    """Writes what happens, and reads what was decided when the job was made.

    Args:
        folder: the job's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = read_job(folder)
        self.request = FineTuneRequest.from_json(self.job["request"])
        self.settings: Settings = settings_from_json(self.job["settings"])

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def result(self) -> Path:
        """The folder of the adapter or model."""
        return self.folder / "result"

    @property
    def micro_batch(self) -> int:
        """How many rows are trained at once, as it was found to fit when the job was made."""
        return int(self.job["needs"]["micro_batch_size"])

    @property
    def has_events(self) -> bool:
        """Whether somebody worked on the job before."""
        return (self.folder / EVENTS).exists()

    @property
    def makes_adapter(self) -> bool:
        """Whether the result is an adapter; else it is a whole model."""
        return self.request.strategy != "full" and not self.request.merge

    def rows(self, name: str) -> Rows:
        """Return the rows of one of ROWS."""
        return Rows.load(self.folder / "data" / f"{name}.npz")

    def evaluated_rows(self, name: str = "held_out") -> list[Row]:
        """Return the rows that evaluations look at: those held out, at most EVALUATED."""
        rows: list[Row] = self.rows(name)[:EVALUATED]
        return rows

    def measured(self) -> dict[str, Any]:
        """Return what the training took: seconds, tokens per second, and its peak of memory.

        Each time that the job was worked on counts; what nobody worked on it does not.
        """
        events, _ = events_after(self.folder)
        steps = [event for event in events if event["type"] == "step"]
        seconds, since = 0.0, None
        for event in events:
            if event["type"] == "state":
                since = event["at"] if event["state"] == "training" else None
            elif since is not None:
                seconds, since = seconds + event["at"] - since, event["at"]
        rates = [event["tokens_per_second"] for event in steps if "tokens_per_second" in event]
        return {
            "seconds": round(seconds, 1),
            "tokens_per_second": median(rates) if rates else None,
            "peak_memory_bytes": max((event["memory_bytes"] for event in steps), default=None),
        }

    def tell(self, kind: str, **facts: Any) -> None:
        """Append an event: a line, in one write, so that no reader sees it mixed with another."""
        event = {"at": round(time.time(), 3), "type": kind, **facts}
        line = (json.dumps(event) + "\n").encode()
        descriptor = os.open(self.folder / EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def enter(self, state: str, **facts: Any) -> None:
        """Tell of a new state."""
        self.tell("state", state=state, **facts)

    def write_report(self, report: dict[str, Any]) -> None:
        """Write the outcome."""
        write_json(self.folder / REPORT, report)


def write_json(path: Path, content: Any) -> None:
    """Write a file of JSON that is there whole or not at all."""
    write_whole(path, json.dumps(content, indent=2, default=str) + "\n")


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Give a folder to write into, which gets its name only once everything in it is on disk.

    A process that is killed meanwhile leaves a hidden folder, which the next one removes.
    """
    staged = final.with_name(f".{final.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    yield staged
    for path in sorted(staged.rglob("*"), reverse=True):
        sync_path(path)
    sync_path(staged)
    shutil.rmtree(final, ignore_errors=True)
    staged.rename(final)
    sync_path(final.parent)
