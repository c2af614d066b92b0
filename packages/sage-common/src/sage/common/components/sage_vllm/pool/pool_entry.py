"""PoolEntry: one model of a service, whether it is loaded or not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from sage.common.components.sage_vllm.engine_contract import Engine, EngineSpec, Role
from sage.common.components.sage_vllm.engine_stats import EngineStats
from sage.common.components.sage_vllm.model_settings import ModelSettings
from sage.common.components.sage_vllm.planning.memory_estimate import BATCH_SIZE
from sage.common.components.sage_vllm.pool.engine_slot import EngineSlot
from sage.common.components.sage_vllm.pool.placement import Standing
from sage.common.components.sage_vllm.replicas.replicated_engine import replicas_record
from sage.common.components.sage_vllm.requests.results import engine_stats_record

ModelState = Literal[
    "unloaded",
    "waiting",
    "loading",
    "ready",
    "degraded",
    "recovering",
    "unloading",
    "failed",
    "closed",
]

_UNKNOWN_LOAD_SECONDS = 1.0


class PoolEntry:
    """One model of a service, under the name by which calls choose it.

    What is written here is written by whoever holds the pool's lock on changes.

    Args:
        name: the entry's name.
        settings: what the configuration says of it.
        sampling: the options of its generations where nobody gives others.
        source: the entry whose model this one embeds with, converted; None but for the fallback.
    """

    def __init__(
        self,
        name: str,
        settings: ModelSettings,
        *,
        sampling: Mapping[str, Any],
        on_wait: Callable[[], None],
        on_idle: Callable[[], None],
        source: PoolEntry | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.source = source
        self.sampling = sampling
        self.slot = EngineSlot(settings.model_id, on_wait, on_idle, counts=not settings.pin)
        self.arguments = settings.engine  # or those by which it shares a device with another engine
        self.spec: EngineSpec | None = None  # what its next engine is built from
        self.planned_bytes = 0  # that its engine will hold; 0 where nobody can tell
        self._measured_bytes = 0  # that its engine of now has taken
        self.crowded = False  # loading it found too little memory
        self.loads = 0
        self.load_seconds = _UNKNOWN_LOAD_SECONDS
        self.last_error: Exception | None = None
        self._passing: ModelState | None = None  # while it is loaded or unloaded
        self._placed = 0.0
        self._before = EngineStats()

    @property
    def role(self) -> Role:
        """What its engine is for."""
        if self.spec is not None:
            return self.spec.role
        return self.settings.role or Role.GENERATE

    @property
    def model_id(self) -> str:
        """The model that it has now, or will have."""
        engine = self.slot.engine
        if engine is not None:
            return engine.info.model_id
        return self.settings.model_id if self.spec is None else self.spec.model_id

    @property
    def engine(self) -> Engine | None:
        """Its engine, while it is loaded."""
        return self.slot.engine

    @property
    def bytes(self) -> int:
        """What its engine holds, or would hold; 0 where nobody can tell."""
        return max(self.planned_bytes, self._measured_bytes)

    @property
    def held_bytes(self) -> int:
        """What its engine holds of the memory, as far as anybody can tell; 0 without one."""
        engine = self.slot.engine
        return 0 if engine is None else self.bytes or engine.info.memory_bytes

    @property
    def batch_size(self) -> int:
        """How many requests its engine works on at once, or would; 0 where it may never be."""
        if (engine := self.slot.engine) is not None:
            return engine.info.max_batch_size
        if self.spec is None or self.source is not None:
            return 0
        return int(self.spec.arguments.get("max_num_seqs") or BATCH_SIZE)

    @property
    def state(self) -> ModelState:
        """What its calls can expect."""
        if self._passing is not None:
            return self._passing
        if (engine := self.slot.engine) is not None:
            return engine.state
        if self.slot.demand().waiting:
            return "waiting"
        return "unloaded" if self.last_error is None else "failed"

    def passing(self, state: ModelState | None) -> None:
        """Set the state while the entry is loaded or unloaded; None when that is over."""
        self._passing = state

    def note_load(self, seconds: float, measured: int) -> None:
        """Count a load, with its seconds and the bytes that this process grew by."""
        self.loads += 1
        self.load_seconds = seconds
        self._measured_bytes = measured
        self.last_error = None
        self.crowded = False
        self._placed = time.perf_counter()

    def note_unload(self, stats: EngineStats) -> None:
        """Add up the counters of an engine that was unloaded."""
        self._before = _sum(self._before, stats)
        self._measured_bytes = 0  # of the next one the plan is to be believed again

    def totals(self) -> EngineStats:
        """Return the counters of all its engines so far, and the load of the present one."""
        engine = self.slot.engine
        return self._before if engine is None else _sum(self._before, engine.stats())

    def standing(self, now: float) -> Standing:
        """Return its facts for the rule of placement."""
        demand = self.slot.demand()
        return Standing(
            name=self.name,
            bytes=self.bytes,
            resident=self.slot.engine is not None,
            pinned=self.settings.pin,
            running=demand.running,
            waiting=demand.waiting,
            waited=0.0 if demand.since is None else now - demand.since,
            idle=0.0 if demand.running else now - demand.used,
            placed=now - self._placed,
            keep_alive=self.settings.keep_alive,
            load_seconds=self.load_seconds,
            crowded=self.crowded,
        )

    def record(self) -> dict[str, Any]:
        """Return its facts as plain data, with its engine's counters."""
        demand = self.slot.demand()
        return {
            "model_id": self.model_id,
            "role": self.role.label,
            "state": self.state,
            "pinned": self.settings.pin,
            "loads": self.loads,
            "load_seconds": round(self.load_seconds, 3) if self.loads else None,
            "memory_bytes": self.held_bytes,
            **replicas_record(self.slot.engine),
            "waiting_for_place": demand.waiting,
            "last_error": None if self.last_error is None else str(self.last_error),
            **engine_stats_record(self.slot.engine),
        }


def _sum(before: EngineStats, now: EngineStats) -> EngineStats:
    """Return the counters of both, and the state of the later one."""
    return replace(
        now,
        requests_done=before.requests_done + now.requests_done,
        prompt_tokens=before.prompt_tokens + now.prompt_tokens,
        completion_tokens=before.completion_tokens + now.completion_tokens,
        restarts=before.restarts + now.restarts,
        requests_shared=before.requests_shared + now.requests_shared,
        requests_cached=before.requests_cached + now.requests_cached,
    )
