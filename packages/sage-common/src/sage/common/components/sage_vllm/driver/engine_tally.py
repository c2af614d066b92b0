"""EngineTally: what an engine has done so far, counted by the thread that drives it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from sage.common.components.sage_vllm.engine_stats import EngineStats

if TYPE_CHECKING:
    from sage.common.components.sage_vllm.backend.scheduler_load import SchedulerLoad

_RECENT = 1000  # requests whose latency the percentiles are of
_PERCENTILES = (50, 90, 99)


class EngineTally:
    """Counters that one thread writes and any thread may read."""

    def __init__(self) -> None:
        self.restarts = 0
        self.requests_done = 0
        self._prompt_tokens = self._completion_tokens = 0
        self._steps = self._sequence_steps = 0
        self._busy_seconds = 0.0
        self._latencies: deque[float] = deque(maxlen=_RECENT)

    def add_step(self, sequences: int, seconds: float) -> None:
        """Count a step that worked on so many sequences."""
        self._steps += 1
        self._sequence_steps += sequences
        self._busy_seconds += seconds

    def add_result(self, prompt_tokens: int, completion_tokens: int, latency: float) -> None:
        """Count a request that is done."""
        self.requests_done += 1
        self._prompt_tokens += prompt_tokens
        self._completion_tokens += completion_tokens
        self._latencies.append(latency)

    def stats(self, *, in_flight: int, max_batch_size: int, load: SchedulerLoad) -> EngineStats:
        """Return the counters together with the scheduler's load."""
        return EngineStats(
            in_flight=in_flight,
            running=load.running if in_flight else 0,
            waiting=load.waiting if in_flight else 0,
            requests_done=self.requests_done,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            steps=self._steps,
            sequence_steps=self._sequence_steps,
            busy_seconds=self._busy_seconds,
            max_batch_size=max_batch_size,
            kv_cache_usage=load.kv_cache_usage if in_flight else 0.0,
            prefix_cache_hit_rate=load.prefix_cache_hit_rate,
            latency_seconds=self._percentiles(),
            restarts=self.restarts,
        )

    def _percentiles(self) -> dict[str, float]:
        ordered = sorted(self._latencies.copy())
        last = len(ordered) - 1
        return {f"p{p}": ordered[round(last * p / 100)] for p in _PERCENTILES} if ordered else {}
