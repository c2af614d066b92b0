"""What a job's folder says: its request, its events, and whether anybody works on it now.

::

    job.json        the request and all that follows from it, written once
    lock            locked by the process that works on the job, for as long as it lives
    events.jsonl    what happened, a line each, only ever appended to
    checkpoints/    a folder for each checkpoint that is kept, by its step
    result/         the adapter or the model
    report.json     the outcome

An event is ``{"at": seconds since 1970, "type": ..., ...}``; its types are ``state``, ``step``,
``evaluation``, ``checkpoint``, ``warning``, ``error``, and ``killed``, which whoever started a
process appends when a signal has ended it. A state with ``resumed_from`` says that the steps behind
that one are done again, with -1 that all are.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.fine_tuning.errors import FineTuneJobError

JOB, LOCK, EVENTS, REPORT, LOG = "job.json", "lock", "events.jsonl", "report.json", "worker.log"
ENDED = frozenset({"succeeded", "failed", "cancelled"})
_OF_STEPS = frozenset({"step", "evaluation", "checkpoint"})

Event = dict[str, Any]


def read_job(folder: Path) -> dict[str, Any]:
    """Return what job.json says; raises FineTuneJobError for a folder that is no job's."""
    try:
        found = json.loads((folder / JOB).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        hint = "name the folder that was a fine-tuning's output_dir"
        raise FineTuneJobError(folder, f"has no {JOB}, so it is no fine-tuning", hint) from None
    except ValueError as error:
        hint = "start the fine-tuning again, in a new folder"
        raise FineTuneJobError(folder, f"has a {JOB} that cannot be read: {error}", hint) from error
    if not isinstance(found, dict):
        hint = "start the fine-tuning again, in a new folder"
        raise FineTuneJobError(folder, f"has a {JOB} that is no object", hint)
    return found


def events_after(folder: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Return the events behind a place in the file, and the place behind them.

    A line that is still being written is left for the next call.
    """
    try:
        with (folder / EVENTS).open("rb") as file:
            file.seek(offset)
            written = file.read()
    except FileNotFoundError:
        return [], offset
    whole = written[: written.rfind(b"\n") + 1]
    events = []
    for line in whole.splitlines():
        with suppress(ValueError):  # a process that was killed may have left half a line
            event = json.loads(line)
            if isinstance(event, dict):
                events.append(event)
    return events, offset + len(whole)


def without_lost_steps(events: list[Event]) -> list[Event]:
    """Leave out the steps that were done again from a checkpoint after the process had died."""
    kept: list[Event] = []
    for event in events:
        if (since := event.get("resumed_from")) is not None:
            kept = [
                each for each in kept if each.get("type") not in _OF_STEPS or each["step"] <= since
            ]
        kept.append(event)
    return kept


def last_state(events: list[Event]) -> str | None:
    """Return the state that the latest event tells of."""
    states = (event["state"] for event in reversed(events) if event.get("type") == "state")
    return next(states, None)


def is_worked_on(folder: Path) -> bool:
    """Whether a process works on the job now: it has the file locked, and nobody else can."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def worker_of(folder: Path) -> int | None:
    """Return the id of the process that works on the job, None if none does."""
    with suppress(OSError, ValueError):
        if is_worked_on(folder):
            return int((folder / LOCK).read_text(encoding="ascii"))
    return None


def jobs_under(folder: Path) -> Iterator[Path]:
    """Yield the folders of jobs in a folder, the latest last, and itself if it is one."""
    if (folder / JOB).is_file():
        yield folder
    found = [path.parent for path in folder.glob(f"*/{JOB}")]
    yield from sorted(found, key=lambda path: (path / JOB).stat().st_mtime)
