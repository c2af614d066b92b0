"""FineTuneJob: a fine-tuning, watched through its folder by whoever is interested."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.fine_tuning.errors import FineTuneError, FineTuneJobError
from sage.common.components.sage_vllm.fine_tuning.job_folder import (
    ENDED,
    REPORT,
    Event,
    events_after,
    is_worked_on,
    jobs_under,
    last_state,
    read_job,
    without_lost_steps,
    worker_of,
)

_LOOK_EVERY = 0.1  # seconds
_OF_ENDS = ("state", "killed")


@dataclass(frozen=True, kw_only=True)
class FineTuneProgress:
    """How far a job is; what is not known yet is None. ``loss`` is that of the latest step."""

    state: str
    step: int
    steps: int
    loss: float | None = None
    eval_loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    memory_bytes: int | None = None


class FineTuneJob:
    """A fine-tuning in its folder; a process of its own works on it.

    The folder is the truth: any process may open it at any time, and sees the same.

    Args:
        folder: the request's ``output_dir``.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        self._job = read_job(self.folder)
        self._events: list[Event] = []
        self._offset = 0
        self._reading = threading.Lock()

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> FineTuneJob:
        """Return the job of a folder; raises FineTuneJobError if it has none."""
        return cls(folder)

    def __reduce__(self) -> tuple[type[FineTuneJob], tuple[Path]]:
        """Be pickled as what it is: a view of a folder."""
        return FineTuneJob, (self.folder,)

    @property
    def id(self) -> str:
        """What the job is called in its files."""
        return str(self._job["id"])

    @property
    def request(self) -> dict[str, Any]:
        """The request, as plain data."""
        return dict(self._job["request"])

    @property
    def state(self) -> str:
        """What is done now, or how it ended.

        ``queued``, ``training``, ``evaluating``, ``verifying``, ``registering``; then
        ``succeeded``, ``failed`` or ``cancelled``. It is ``interrupted`` if the process that
        worked on it is no more.
        """
        is_alive = is_worked_on(self.folder)  # first: it may end in between
        state = last_state(self._read()) or "queued"
        return state if state in ENDED or is_alive else "interrupted"

    @property
    def progress(self) -> FineTuneProgress:
        """How far it is."""
        state, events = self.state, without_lost_steps(self._read())
        steps = [event for event in events if event.get("type") == "step"]
        evaluations = [event for event in events if event.get("type") == "evaluation"]
        last: Event = steps[-1] if steps else {}
        in_all = int(self._job["steps"])
        left = None
        if state == "training" and (per_step := last.get("seconds_per_step")):
            left = per_step * (in_all - last["step"])
        return FineTuneProgress(
            state=state,
            step=int(last.get("step", 0)),
            steps=in_all,
            loss=last.get("loss"),
            eval_loss=evaluations[-1]["loss"] if evaluations else None,
            tokens_per_second=last.get("tokens_per_second"),
            seconds_left=left,
            memory_bytes=last.get("memory_bytes"),
        )

    def events(self, *, follow: bool = False) -> Iterator[Event]:
        """Yield what happened; with ``follow``, what happens too, until the job ends."""
        offset = 0
        while True:
            is_alive = follow and is_worked_on(self.folder)  # before reading: no gap
            found, offset = events_after(self.folder, offset)
            yield from found
            if not is_alive:
                return
            if not found:
                time.sleep(_LOOK_EVERY)

    def metrics(self) -> list[dict[str, Any]]:
        """Return a dict per step: ``step``, ``loss``, and what an evaluation after it found."""
        rows: dict[int, dict[str, Any]] = {}
        for event in without_lost_steps(self._read()):
            if event.get("type") == "step":
                rows.setdefault(event["step"], {}).update(step=event["step"], loss=event["loss"])
            elif event.get("type") == "evaluation":
                found = {f"eval_{name}": event[name] for name in _EVALUATED if name in event}
                rows.setdefault(event["step"], {"step": event["step"]}).update(found)
        return [rows[step] for step in sorted(rows)]

    def checkpoints(self) -> list[dict[str, Any]]:
        """Return the checkpoints that are there: ``step``, ``path``, and the step's metrics."""
        by_step = {row["step"]: row for row in self.metrics()}
        folders = sorted((self.folder / "checkpoints").glob("[0-9]*"))
        return [
            {"path": str(folder), **by_step.get(int(folder.name), {"step": int(folder.name)})}
            for folder in folders
        ]

    def cancel(self) -> bool:
        """Have it finish its step, write a checkpoint and stop; False if nobody works on it.

        Returns at once; ``result`` waits for the end.
        """
        worker = worker_of(self.folder)
        if worker is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGTERM)
        return True

    def wait(self, timeout: float | None = None) -> str:
        """Wait until nobody works on it any more, and return its state; raises TimeoutError."""
        end = None if timeout is None else time.monotonic() + timeout
        while is_worked_on(self.folder):
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"the fine-tuning in {str(self.folder)!r} is {self.state}")
            time.sleep(_LOOK_EVERY)
        if self.state == "interrupted":
            time.sleep(_LOOK_EVERY)  # its starter may have yet to tell what ended the process
        return self.state

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the end and return the report.

        Raises FineTuneError if it failed or was cancelled or interrupted, and TimeoutError.
        """
        state = self.wait(timeout)
        if state != "succeeded":
            base = str(self.request["base_model"])
            raise FineTuneError(base, self.folder, state, self.reason)
        report: dict[str, Any] = json.loads((self.folder / REPORT).read_bytes())
        return report

    @property
    def reason(self) -> str:
        """Why it is not running, if it ended otherwise than well."""
        state, events = self.state, self._read()
        told = next((each for each in reversed(events) if each.get("type") in _OF_ENDS), {})
        if state == "interrupted":
            gone = "the process that worked on it is no more"
            return str(told["message"]) if told.get("type") == "killed" else gone
        errors = [event for event in events if event.get("type") == "error"]
        if state == "failed" and errors:
            return str(errors[-1].get("message"))
        return "it was asked to stop"

    def _read(self) -> list[Event]:
        with self._reading:  # a display may look at it beside whoever waits
            found, self._offset = events_after(self.folder, self._offset)
            self._events += found
        return self._events


_EVALUATED = ("loss", "perplexity", "token_accuracy", "exact_match")


def fine_tune_jobs(folder: str | os.PathLike[str] = ".") -> list[FineTuneJob]:
    """Return the jobs whose folders lie in a folder, the latest last."""
    jobs = []
    for found in jobs_under(Path(folder)):
        with suppress(FineTuneJobError):
            jobs.append(FineTuneJob(found))
    return jobs
