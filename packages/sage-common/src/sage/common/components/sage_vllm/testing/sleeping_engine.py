"""SleepingEngine: an EchoEngine that works in steps, as vLLM does, and can die."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from copy import copy
from dataclasses import replace
from typing import Any

from sage.common.components.sage_vllm.engine_contract import EngineSpec, EngineState
from sage.common.components.sage_vllm.engine_stats import EngineStats
from sage.common.components.sage_vllm.testing.delay_line import complete_future
from sage.common.components.sage_vllm.testing.echo_engine import Answers, EchoEngine


class SleepingEngine(EchoEngine):
    """Answers as EchoEngine does, in steps that last ``step_seconds`` and cost no processor time.

    A step gives one word to each of at most ``max_batch_size`` requests. So several of these
    engines in one process are as fast as several GPUs would be: what is measured with them is the
    coordination around them, not the generation.

    Args:
        spec, answers: as of EchoEngine.
        step_seconds: how long a step lasts.
        max_batch_size: how many requests a step works on.
        rebuild_seconds: how long the engine is away after ``die()``.
    """

    def __init__(
        self,
        spec: EngineSpec,
        *,
        answers: Answers | None = None,
        step_seconds: float = 0.01,
        max_batch_size: int = 8,
        rebuild_seconds: float = 0.5,
    ) -> None:
        super().__init__(spec, answers=answers)
        self._info = replace(self._info, max_batch_size=max_batch_size)
        self._steps = _StepLine(step_seconds, max_batch_size, rebuild_seconds)
        self._line = self._steps  # type: ignore[assignment]  # of the same shape
        self._told_of_deaths: list[Callable[[], None]] = []

    @property
    def state(self) -> EngineState:
        """Recovering for ``rebuild_seconds`` after ``die()``, until then and from then on ready."""
        if self._closed:
            return "closed"
        return "recovering" if self._steps.is_away() else "ready"

    def die(self) -> None:
        """Lose what the requests in flight have got, and begin them anew after a while."""
        self._steps.die()
        for tell in self._told_of_deaths:
            tell()

    def come_back(self) -> None:
        """Be ready at once, where ``die()`` has sent the engine away: a test need not wait."""
        self._steps.come_back()

    def on_death(self, told: Callable[[], None]) -> None:
        """Have ``told`` called at each ``die()``; see ReportsDeath."""
        self._told_of_deaths.append(told)

    def stats(self) -> EngineStats:
        """Return the counters, with the steps that were made."""
        steps = self._steps
        return replace(
            super().stats(),
            steps=steps.steps,
            sequence_steps=steps.sequence_steps,
            busy_seconds=steps.busy_seconds,
            restarts=steps.deaths,
        )

    def _took(self, began: float, seconds: float) -> float:  # noqa: ARG002 - steps decide
        return time.perf_counter() - began

    def _later(self, seconds: float, words: int, complete: Callable[[], Any]) -> Future[Any]:  # noqa: ARG002 - steps last as long as they do
        return self._steps.after(max(1, words), complete)


class _StepLine:
    """Completes each Future after a number of steps, of which many Futures share each."""

    def __init__(self, seconds: float, batch: int, rebuild_seconds: float) -> None:
        self._seconds = seconds
        self._batch = batch
        self._rebuild_seconds = rebuild_seconds
        self._waiting: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._changed = threading.Condition()
        self.finishing = threading.RLock()  # held while a step ends: nobody dies halfway
        self._thread: threading.Thread | None = None
        self._closed: Exception | None = None
        self._away_until = 0.0
        self.steps = self.sequence_steps = self.deaths = 0

    def __len__(self) -> int:
        """Return how many have neither been completed nor cancelled yet."""
        with self._changed:
            return sum(not job.future.done() for job in (*self._running, *self._waiting))

    @property
    def busy_seconds(self) -> float:
        """The time that the steps lasted."""
        return self.steps * self._seconds

    def is_away(self) -> bool:
        """Whether it died and does not work again yet."""
        return time.monotonic() < self._away_until

    def after(self, steps: int, complete: Callable[[], Any]) -> Future[Any]:
        """Return a Future of what ``complete()`` returns after so many steps."""
        job = _Job(steps, complete)
        with self._changed:
            if self._closed is not None:
                raise copy(self._closed)
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sage-sleep", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job.future

    def die(self) -> None:
        """Put what runs back to its beginning, and stay away for a while."""
        with self.finishing, self._changed:
            self.deaths += 1
            self._away_until = time.monotonic() + self._rebuild_seconds
            for job in self._running:
                job.left = job.steps
            self._waiting.extendleft(reversed(self._running))
            self._running.clear()
            self._changed.notify_all()

    def come_back(self) -> None:
        """End the time that it stays away."""
        with self._changed:
            self._away_until = 0.0
            self._changed.notify_all()

    def close(self, error: Exception, *, drain: bool = False) -> None:
        """Fail what waits with the error, or complete it first; then end the thread."""
        with self._changed:
            while drain and (self._waiting or self._running):
                self._changed.wait(self._seconds)
            self._closed = error
            left = [*self._running, *self._waiting]
            self._running, self._waiting = [], deque()
            self._changed.notify_all()
        for job in left:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while self._begin_step():
            time.sleep(self._seconds)
            with self.finishing:
                for job in self._end_step():
                    complete_future(job.future, job.complete)

    def _begin_step(self) -> bool:
        """Wait for work and fill the batch; False once it is closed."""
        with self._changed:
            while self._closed is None:
                away = self._away_until - time.monotonic()
                if away <= 0:
                    self._running = [job for job in self._running if not job.future.done()]
                    while self._waiting and len(self._running) < self._batch:
                        job = self._waiting.popleft()
                        if not job.future.cancelled():
                            self._running.append(job)
                    if self._running:
                        return True
                self._changed.wait(away if away > 0 else None)
            return False

    def _end_step(self) -> list[_Job]:
        """Count the step; return the jobs that it finished."""
        with self._changed:
            self.steps += 1
            self.sequence_steps += len(self._running)
            for job in self._running:
                job.left -= 1
            done = [job for job in self._running if job.left <= 0]
            self._running = [job for job in self._running if job.left > 0]
            return done


class _Job:
    __slots__ = ("complete", "future", "left", "steps")

    def __init__(self, steps: int, complete: Callable[[], Any]) -> None:
        self.steps = self.left = steps
        self.complete = complete
        self.future: Future[Any] = Future()
