"""What is remembered beside the weights: evaluations, the pace of steps, a wish to stop."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_OVER = 5.0  # seconds
_SAVING = 0.02
"""The share of the time that checkpoints may take, those of the best evaluations aside."""


class Stop:
    """Whether somebody wants the job to end: the first SIGTERM asks, the second one ends it."""

    def __init__(self) -> None:
        self.is_asked = False

    def listen(self) -> None:
        """Hear SIGTERM from now on."""
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: Any) -> None:
        self.is_asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class EvaluationLog:
    """What the evaluations found, and which was the best.

    That is the one with the most exact answers, or preferences that are right, and of equals the
    one of the lowest loss: a loss falls by the form of answers alone, and rises where a model is
    sure of a wrong one.

    It is kept with each checkpoint, so that training that goes on from there ends where it would
    have ended.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self._rows = [dict(row) for row in rows]

    @classmethod
    def of_checkpoint(cls, checkpoint: Path | None) -> EvaluationLog:
        """Return what a checkpoint knows; an empty one without a checkpoint."""
        if checkpoint is None:
            return cls()
        return cls(json.loads((checkpoint / "evaluations.json").read_bytes()))

    def to_json(self) -> list[dict[str, Any]]:
        """Return it as plain data."""
        return self._rows

    def add(self, step: int, found: Mapping[str, float]) -> None:
        """Note an evaluation after a step."""
        self._rows.append({"step": step, **found})

    @property
    def before(self) -> dict[str, Any] | None:
        """What was found of the base model, before the first step."""
        return self.of_step(0)

    @property
    def best_step(self) -> int | None:
        """The step with the best evaluation, the earliest of equals."""
        trained = [row for row in self._rows if row["step"]]
        best = min(trained, key=_badness, default=None)
        return None if best is None else best["step"]

    def of_step(self, step: int) -> dict[str, Any] | None:
        """Return what was found after a step."""
        return next((row for row in self._rows if row["step"] == step), None)

    def is_over(self, patience: int | None) -> bool:
        """Whether so many evaluations in a row were no better than the best before them."""
        best = self.best_step
        if patience is None or best is None:
            return False
        return len([row for row in self._rows if row["step"] > best]) >= patience

    def remove_others(self, checkpoints: Path, latest: int) -> None:
        """Remove all checkpoints but the latest and the best."""
        kept = {f"{step:06d}" for step in (latest, self.best_step) if step is not None}
        for folder in checkpoints.iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def _badness(row: Mapping[str, Any]) -> tuple[float, float]:
    return -row.get("preference_accuracy", row["exact_match"]), row["loss"]


class Pace:
    """How fast training is: over the latest seconds, without what evaluations took.

    Args:
        tokens: how many tokens each step has.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._recent: deque[tuple[float, int]] = deque()
        self._paused = 0.0

    def begin(self, step: int) -> None:
        """Begin to measure after a step."""
        self._recent.append((time.monotonic() - self._paused, step))

    def pause(self, seconds: float) -> None:
        """Leave seconds out that were no training."""
        self._paused += seconds

    def after(self, step: int) -> dict[str, float]:
        """Return ``tokens_per_second`` and ``seconds_per_step`` as of the end of a step."""
        now = time.monotonic() - self._paused
        self._recent.append((now, step))
        while len(self._recent) > 2 and now - self._recent[0][0] > _OVER:
            self._recent.popleft()
        since, first = self._recent[0]
        seconds, steps = max(now - since, 1e-9), step - first
        if not steps:
            return {}
        tokens = sum(self._tokens[first:step])
        return {
            "tokens_per_second": round(tokens / seconds, 1),
            "seconds_per_step": round(seconds / steps, 6),
        }


class Saves:
    """When a checkpoint is due.

    Args:
        every: after so many steps; None is twenty times in all, but not so often that checkpoints
            would take more than a fiftieth of the time.
        steps: how many there are in all.
    """

    def __init__(self, every: int | None, steps: int) -> None:
        self._every = every or max(1, math.ceil(steps / 20))
        self._share = _SAVING if every is None else math.inf
        self._began = self._rests_until = -math.inf

    def is_due(self, step: int) -> bool:
        """Whether one is to be written after a step."""
        return step % self._every == 0 and time.monotonic() >= self._rests_until

    def begin(self) -> None:
        """Note that one is being written now."""
        self._began = time.monotonic()

    def end(self) -> None:
        """Note that it is written."""
        now = time.monotonic()
        self._rests_until = now + (now - self._began) / self._share


def most_memory() -> int:
    """Return the most bytes that this process has had at once; Linux only.

    ``getrusage`` would tell those of the process that has started it, if it had more.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(each.split()[1]) << 10 for each in status.splitlines() if "VmHWM" in each)
