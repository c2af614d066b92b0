"""EngineStats: what an engine counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """Counters since the engine was built, and its state as of the last step.

    ``running`` and ``waiting`` are requests in the scheduler, ``in_flight`` all that have no result
    yet. ``kv_cache_usage`` and ``prefix_cache_hit_rate`` are shares, 0 to 1; ``busy_seconds`` is
    the time spent in steps. ``latency_seconds`` has the percentiles ``p50``, ``p90`` and ``p99``
    of the last thousand requests, from submission to the last token. ``restarts`` counts how often
    an engine that had died was built again. ``requests_shared`` are those that were answered by an
    equal one, and ``requests_cached`` those from a cache; ``requests_done`` has neither.
    """

    in_flight: int = 0
    running: int = 0
    waiting: int = 0
    requests_done: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    sequence_steps: int = 0
    busy_seconds: float = 0.0
    max_batch_size: int = 1
    kv_cache_usage: float = 0.0
    prefix_cache_hit_rate: float = 0.0
    latency_seconds: Mapping[str, float] = field(default_factory=dict)
    restarts: int = 0
    requests_shared: int = 0
    requests_cached: int = 0

    @property
    def mean_batch_size(self) -> float:
        """Requests per step, at most ``max_batch_size`` of which one step can work on."""
        return self.sequence_steps / self.steps if self.steps else 0.0

    @property
    def batch_occupancy(self) -> float:
        """``mean_batch_size`` as a share of ``max_batch_size``, 0 to 1."""
        return self.mean_batch_size / self.max_batch_size

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens per second of the time spent in steps."""
        return self.completion_tokens / self.busy_seconds if self.busy_seconds else 0.0
