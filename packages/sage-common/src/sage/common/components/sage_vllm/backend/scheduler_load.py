"""SchedulerLoad: how full vLLM's scheduler and caches are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class SchedulerLoad:
    """What vLLM's scheduler said of itself at the last step."""

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    prefix_queries: int = 0
    prefix_hits: int = 0

    @property
    def prefix_cache_hit_rate(self) -> float:
        """The share of prompt tokens, 0 to 1, that were in the prefix cache."""
        return self.prefix_hits / self.prefix_queries if self.prefix_queries else 0.0


class LoadRecorder:
    """Stands where vLLM's own StatLoggerManager would, and keeps the scheduler's figures.

    vLLM's would register some hundred metrics in the process's one Prometheus registry.
    """

    def __init__(self, **_settings: Any) -> None:
        self.load = SchedulerLoad()

    def log_engine_initialized(self) -> None:
        """Nothing to say."""

    def log(self) -> None:
        """Nothing to say."""

    def record(self, *, scheduler_stats: Any, **_others: Any) -> None:
        """Take the figures of one step."""
        load = self.load
        load.running = scheduler_stats.num_running_reqs
        load.waiting = scheduler_stats.num_waiting_reqs
        load.kv_cache_usage = scheduler_stats.kv_cache_usage
        load.prefix_queries += scheduler_stats.prefix_cache_stats.queries
        load.prefix_hits += scheduler_stats.prefix_cache_stats.hits
