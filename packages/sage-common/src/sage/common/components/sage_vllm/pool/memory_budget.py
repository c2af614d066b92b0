"""MemoryBudget: what the engines of a service may hold together, and what is left of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import copy
from dataclasses import replace

from sage.common.components.sage_vllm.engine_abilities import DeviceMemory, PlansEngines
from sage.common.components.sage_vllm.engine_contract import EngineFactory, EngineSpec
from sage.common.components.sage_vllm.planning.memory_check import InsufficientMemoryError
from sage.common.components.sage_vllm.planning.memory_share import MemoryShare
from sage.common.core.errors import Setting
from sage.common.model_registry.vllm_registry import format_bytes

_RESERVE = 0.08  # the share of all memory that is left free where nobody sets a budget


class MemoryBudget:
    """Compares what engines hold, and what other programs have taken, with a limit.

    Without a limit, or with engines that nobody can plan, there is room for everything: an engine
    that finds no memory then says so itself.
    """

    def __init__(self, factory: EngineFactory, share: MemoryShare | None) -> None:
        self._planner = factory if isinstance(factory, PlansEngines) else None
        self._share = share
        self._limit: int | None = None

    @property
    def limit(self) -> int | None:
        """The bytes that all engines may hold together; None where there is no limit."""
        return self._limit

    def settle(self) -> None:
        """Fix the limit by what is free now: before any engine is loaded."""
        if self._planner is None:
            return
        memory = self._planner.device_memory()
        if self._share is not None:
            total = memory.total if memory is not None else 0
            self._limit = self._share.of(total) or None
        elif memory is not None:
            self._limit = _default_limit(memory)

    def plan(self, spec: EngineSpec, reserved: int = 0) -> tuple[EngineSpec, int]:
        """Return what an engine will be within the limit, and the bytes that it will hold.

        ``reserved`` is what others keep of the limit for good. Raises InsufficientMemoryError for
        a model that exceeds the rest, and as planning it does.
        """
        if self._planner is None or self._limit is None:
            return spec, 0
        limit = max(1, self._limit - reserved)
        try:
            planned, held = self._planner.plan(replace(spec, memory_limit=limit))
        except InsufficientMemoryError as error:
            raise _beyond(error, limit, reserved) from None
        return replace(planned, memory_limit=None), held

    def room(self, held: Iterable[int]) -> float:
        """Return the bytes that another engine may take, beside those that hold these."""
        if self._planner is None or self._limit is None:
            return math.inf
        memory = self._planner.device_memory()
        room = self._limit - sum(held)
        return max(0, room if memory is None else min(room, memory.free))

    def taken(self) -> int:
        """Return the bytes that engines in this process have; 0 where nobody counts them."""
        if self._planner is None or self._limit is None:
            return 0
        return self._planner.taken_memory()


def _beyond(error: InsufficientMemoryError, limit: int, reserved: int) -> InsufficientMemoryError:
    """Return the error of a model that exceeds what the budget can ever give it."""
    beyond = copy(error)
    pinned = f", of which pinned models keep {format_bytes(reserved)}" if reserved else ""
    beyond.problem = f"{error.problem}; memory_budget is {format_bytes(limit + reserved)}{pinned}"
    beyond.args = (beyond.problem,)
    if (estimate := error.estimate) is not None and error.settings:
        cache = estimate.kv_bytes if estimate.kv_cache_bytes is None else estimate.kv_cache_bytes
        needed = reserved + (error.share_bytes or estimate.fixed_bytes + (cache or 0))
        beyond.settings = (*error.settings, Setting("memory_budget", needed, "or more"))
    return beyond


def _default_limit(memory: DeviceMemory) -> int:
    """Return what is free, less a reserve; of a GPU, vLLM's own default share is the most."""
    reserve = int(_RESERVE * memory.total)
    return min(memory.free, memory.total - reserve) if memory.is_gpu else memory.free - reserve
