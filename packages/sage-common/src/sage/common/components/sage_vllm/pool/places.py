"""Places: which entries have an engine, within the budget; engines are loaded and unloaded here."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine_contract import Engine, EngineSpec
from sage.common.components.sage_vllm.errors import EngineClosedError
from sage.common.components.sage_vllm.planning.memory_check import InsufficientMemoryError
from sage.common.components.sage_vllm.pool.engine_loader import EngineLoader
from sage.common.components.sage_vllm.pool.memory_budget import MemoryBudget
from sage.common.components.sage_vllm.pool.model_table import ModelTable
from sage.common.components.sage_vllm.pool.placement import FairPlacement, Placement, Step
from sage.common.components.sage_vllm.pool.pool_entry import PoolEntry
from sage.common.core.background import in_background

logger = logging.getLogger(__name__)


class Places:
    """Gives models their places by a rule, one step after the other.

    Args:
        config: says whether there is a budget: where several models are named, or a size is.
        changing: the lock that is held while engines are loaded, unloaded or replaced. Callers of
            these methods hold it, except of ``tend``, which takes its steps on other threads, and
            of ``freed``.
        is_serving: returns whether steps may be taken now.
        on_done: is called after each step.
        on_error: is called with the error of a load that failed.
        on_loss: is called with an entry whose engine cannot be built again, and why.
    """

    def __init__(
        self,
        config: VLLMServiceConfig,
        table: ModelTable,
        loader: EngineLoader,
        budget: MemoryBudget,
        changing: threading.Lock,
        *,
        is_serving: Callable[[], bool],
        on_done: Callable[[], None],
        on_error: Callable[[Exception], None],
        on_loss: Callable[[PoolEntry, Exception], None],
    ) -> None:
        self._table = table
        self._loader = loader
        self._budget = budget
        self._changing = changing
        self._is_serving = is_serving
        self._on_done = on_done
        self._on_error = on_error
        self._on_loss = on_loss
        self._rule: Placement = FairPlacement(config.max_wait)
        several = bool(config.models) or config.on_demand
        self._is_limited = several or config.memory_budget is not None
        self._is_acting = False
        self._pausing = threading.Lock()  # held while ``freed`` lasts
        self.is_paused = False

    # -- what there is room for -----------------------------------------------------------------

    def settle(self) -> None:
        """Fix the budget, and see that each configured model fits it; raises as planning does."""
        if not self._is_limited:
            return
        self._budget.settle()
        for entry in sorted(self._table.configured, key=lambda each: not each.settings.pin):
            self.plan(entry)

    def plan(self, entry: PoolEntry) -> None:
        """Settle what an entry's engine is built from, and what it will hold."""
        entry.spec, entry.planned_bytes = self.planned(entry, entry.spec or self._new_spec(entry))

    def planned(self, entry: PoolEntry, spec: EngineSpec) -> tuple[EngineSpec, int]:
        """Return a spec as the entry would have it, and the bytes that its engine will hold."""
        if not self._is_limited:
            return spec, entry.planned_bytes
        others = [each for each in self._table.all() if each is not entry and each.settings.pin]
        return self._budget.plan(spec, reserved=sum(each.bytes for each in others))

    def build(self, spec: EngineSpec) -> Engine:
        """Build an engine that keeps to what is left of the budget; raises as EngineLoader.load."""
        room = self._room()
        limit = None if math.isinf(room) else int(room)
        return self._loader.load(replace(spec, memory_limit=limit))

    def _room(self) -> float:
        resident = [entry.bytes for entry in self._table.all() if entry.engine is not None]
        return self._budget.room(resident) if self._is_limited else math.inf

    def _new_spec(self, entry: PoolEntry) -> EngineSpec:
        if entry.source is None:
            return self._loader.spec(entry.name, entry.settings)
        if entry.source.spec is None:
            raise EngineClosedError(entry.settings.model_id)
        return self._loader.converted(entry.source.spec)

    # -- loading and unloading ------------------------------------------------------------------

    def load(self, entry: PoolEntry) -> None:
        """Load an entry's engine and put it into its slot; raises what went wrong."""
        spec = entry.spec or self._new_spec(entry)
        if entry.source is not None:
            logger.warning(
                "no embedding_model_id is configured: embedding with the text model %s, "
                "converted, which is slower and less accurate than an embedding model",
                spec.model_id,
            )
        with _passing(entry, "loading"):
            before, began = self._budget.taken(), time.perf_counter()
            engine = self.build(spec)
            seconds = time.perf_counter() - began
            entry.spec = spec
            entry.note_load(seconds, self._budget.taken() - before)
            self._loader.put(engine, entry.slot)

    def unload(self, entry: PoolEntry) -> None:
        """Free an entry's engine after its calls in flight; calls that come meanwhile wait."""
        with _passing(entry, "unloading"):
            engine = entry.slot.take_out()
            if engine is not None:
                logger.info("unloading %s (%s)", entry.name, engine.info.model_id)
                self._loader.retire(engine)
                entry.note_unload(replace(engine.stats(), in_flight=0, running=0, waiting=0))

    def fail(self, entry: PoolEntry, error: Exception) -> None:
        """Fail the calls that wait for an entry, and only these; the next ones try again."""
        entry.crowded = False
        entry.last_error = error
        if not isinstance(error, EngineClosedError):
            logger.info("%s could not be loaded: %s", entry.name, error)
            self._on_error(error)
        entry.slot.fail_waiting(error)

    @contextmanager
    def freed(self) -> Iterator[None]:
        """Free all engines while the block lasts: something else needs their memory.

        Calls in flight are finished first. Those that come meanwhile wait, their deadlines count,
        and they are served by the engines that are built afterwards. Two blocks take turns.
        """
        with self._pausing:
            freed: list[PoolEntry] = []
            try:
                with self._changing:
                    self.is_paused = True
                    for entry in self._table.all():
                        if entry.engine is not None:
                            freed.append(entry)
                            self.unload(entry)
                yield
            finally:
                with self._changing:
                    for entry in freed:
                        try:
                            self.load(entry)
                        except Exception as error:  # noqa: BLE001 - it belongs to the entry's calls
                            if not isinstance(error, EngineClosedError):
                                self._on_error(error)
                            self._on_loss(entry, error)
                    self.is_paused = False
                self._on_done()

    # -- step by step ---------------------------------------------------------------------------

    def tend(self) -> float | None:
        """Do what is due; return as the ``tend`` of a PoolKeeper does."""
        now = time.perf_counter()
        entries = self._table.all()
        due = [at - now for each in entries if (at := each.slot.expire(now)) is not None]
        if self._may_act() and not self._is_acting:
            step = self._next_step()
            if step.acts:
                self._is_acting = True
                in_background(self._act)
            elif step.after is not None:
                due.append(step.after)
        if self._is_acting or any(each.slot.demand().waiting for each in entries):
            due.append(math.inf)
        return min(due, default=None)

    def _may_act(self) -> bool:
        return self._is_serving() and not self.is_paused

    def _next_step(self) -> Step:
        now = time.perf_counter()
        standings = [entry.standing(now) for entry in self._table.all()]
        wanted = any(each.waiting and not each.resident for each in standings)
        return self._rule.next_step(standings, self._room() if wanted else 0)

    def _act(self) -> None:
        """Take the step that is due once nobody else changes the engines."""
        try:
            with self._changing:
                if self._may_act():
                    self._take(self._next_step())
        except Exception:
            logger.exception("no place could be made for a model")
        finally:
            self._is_acting = False
            self._on_done()

    def _take(self, step: Step) -> None:
        for name in step.evict:
            self.unload(self._table.entry(name))
        if step.load is None:
            return
        entry = self._table.entry(step.load)
        try:
            if self._is_limited and not entry.planned_bytes:  # nobody has planned it yet
                self.plan(entry)
                if entry.bytes > self._room():
                    return  # the next step makes place for it
            self.load(entry)
        except InsufficientMemoryError as error:
            if step.in_vain or not self._is_limited:
                self.fail(entry, error)
            else:
                entry.crowded = True  # by another program: a model has to make room
        except Exception as error:  # noqa: BLE001 - it belongs to the calls that wait for it
            self.fail(entry, error)


@contextmanager
def _passing(entry: PoolEntry, state: Literal["loading", "unloading"]) -> Iterator[None]:
    """Set the state of an entry while something is done with it."""
    entry.passing(state)
    try:
        yield
    finally:
        entry.passing(None)
