"""EnginePool: the models of a service in one budget of memory, and their health."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sage.common.components.sage_vllm.adapters.lora_adapter import LoraAdapters
from sage.common.components.sage_vllm.cache.result_caches import ResultCaches
from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine_contract import Engine, EngineFactory, Role
from sage.common.components.sage_vllm.errors import EngineClosedError
from sage.common.components.sage_vllm.model_settings import ModelSettings
from sage.common.components.sage_vllm.pool.call_notes import CallNotes
from sage.common.components.sage_vllm.pool.engine_loader import EngineLoader
from sage.common.components.sage_vllm.pool.engine_slot import Start
from sage.common.components.sage_vllm.pool.engine_switch import switch_engine
from sage.common.components.sage_vllm.pool.memory_budget import MemoryBudget
from sage.common.components.sage_vllm.pool.model_table import ModelTable
from sage.common.components.sage_vllm.pool.places import Places
from sage.common.components.sage_vllm.pool.pool_entry import PoolEntry
from sage.common.components.sage_vllm.pool.pool_keeper import PoolKeeper
from sage.common.components.sage_vllm.replicas.replicated_engine import replicas_record
from sage.common.components.sage_vllm.requests.results import engine_stats_record

logger = logging.getLogger(__name__)

ServiceState = Literal[
    "loading", "ready", "degraded", "recovering", "switching", "paused", "failed", "closed"
]


class EnginePool:
    """Holds the models that a configuration names: loads, unloads and replaces their engines.

    Whoever changes which engines there are holds one lock meanwhile. Calls do not: they reach
    their entry's engine, or wait in its slot until there is one. The keeper sees to it that there
    will be.
    """

    def __init__(self, config: VLLMServiceConfig, factory: EngineFactory) -> None:
        self._config = config
        self._phase: ServiceState = "closed"
        self._has_opened = False
        self._largest_batch = 0
        self._last_error: BaseException | None = None
        self._replacing = threading.Lock()  # held by whoever changes which engines there are
        self.notes = CallNotes()
        self._loader = EngineLoader(config, factory)
        self.models = self._loader.models
        self._keeper = PoolKeeper(lambda: self.places.tend())
        self.adapters = LoraAdapters(config.model_root, self.models)
        self.caches = ResultCaches(config.cache)
        self.table = ModelTable(config, self._make_entry)
        self.places = Places(
            config,
            self.table,
            self._loader,
            MemoryBudget(factory, config.budget),
            self._replacing,
            is_serving=lambda: self._has_opened and self._phase in ("ready", "failed"),
            on_done=self._keeper.wake,
            on_error=self._note_error,
            on_loss=self._lose,
        )

    def _make_entry(
        self, name: str, settings: ModelSettings, source: PoolEntry | None
    ) -> PoolEntry:
        wake, nudge = self._keeper.wake, self._keeper.nudge
        on_idle = nudge if settings.keep_alive is None else wake
        return PoolEntry(
            name,
            settings,
            sampling={**self._config.sampling, **settings.sampling},
            on_wait=wake,
            on_idle=on_idle,
            source=source,
        )

    # -- life -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Load what is to be there from the start, and see that the others can be loaded.

        Raises ModelNotFoundError, InsufficientMemoryError, EngineError or ValueError.
        """
        with self._replacing:
            self._phase = "loading"
            try:
                self._settle_specs()
                for entry in self.table.configured:
                    if entry.settings.preload:
                        self.places.load(entry)
            except BaseException as error:
                self._phase = "failed"
                self._last_error = error
                raise
            self._phase, self._has_opened = "ready", True
        self._keeper.nudge()

    def _settle_specs(self) -> None:
        """Settle what engines are built from, and that each model fits into the budget."""
        for entry in self.table.configured:
            entry.spec = self._loader.spec(entry.name, entry.settings)
        found = [self.table.get(role.label) for role in Role]
        sharing = [each for each in found if each is not None and each.spec is not None]
        specs = self._loader.shared(*(each.spec for each in sharing if each.spec is not None))
        for entry, spec in zip(sharing, specs, strict=True):
            entry.spec, entry.arguments = spec, spec.arguments
        self.notes.look_at_models(self.table.configured)
        self.places.settle()

    def close(self) -> None:
        """End calls in flight with EngineClosedError and free all engines.

        That includes engines that are being loaded or replaced.
        """
        if self._phase != "failed":
            self._phase = "closed"
        self.table.close()  # first of all: closing an engine takes a while
        self._loader.close()
        self._keeper.close()
        with self._replacing:  # from now on no engine can be put into a slot
            pass
        self.caches.close()

    @property
    def state(self) -> ServiceState:
        """What the service can do now."""
        if self._phase == "ready":
            engines = (entry.engine for entry in self.table.all())
            states = {engine.state for engine in engines if engine is not None}
            for state in ("failed", "recovering", "degraded", "closed"):
                if state in states:
                    return state
            return "paused" if self.places.is_paused else "ready"
        return self._phase

    def health(self) -> dict[str, Any]:
        """Return the state of the service and of each engine, and the latest error, as data."""
        return {
            "state": self.state,
            "engines": {
                entry.name: {
                    "model_id": engine.info.model_id,
                    "state": engine.state,
                    "restarts": engine.stats().restarts,
                    **replicas_record(engine),
                }
                for entry in self.table.all()
                if (engine := entry.engine) is not None
            },
            "models": {entry.name: entry.state for entry in self.shown()},
            "last_error": None if self._last_error is None else str(self._last_error),
        }

    def stats(self) -> dict[str, Any]:
        """Return what VLLMService.stats describes."""
        others = {role.label: self.engine(role) for role in (Role.EMBED, Role.SCORE)}
        return {
            **engine_stats_record(self.engine(Role.GENERATE)),
            "state": self.state,
            **{name: engine_stats_record(each) for name, each in others.items() if each},
            "models": {entry.name: entry.record() for entry in self.shown()},
            "caches": self.caches.records(),
        }

    def largest_batch(self) -> int:
        """Return how many calls of one role its engines can work on at once; 0 before it opens.

        Models that are not loaded yet count too: once they are, all their calls begin at once.
        """
        batches: Counter[Role] = Counter()
        for entry in self.table.all():
            batches[entry.role] += entry.batch_size
        self._largest_batch = max(self._largest_batch, *batches.values(), 0)
        return self._largest_batch

    def shown(self) -> list[PoolEntry]:
        """Return the entries to show: all but a fallback that nobody has used."""
        return [
            entry for entry in self.table.all() if entry.source is None or entry.state != "unloaded"
        ]

    def engine(self, role: Role) -> Engine | None:
        """Return the engine of the entry that is named after a role, if it is loaded."""
        entry = self.table.get(role.label)
        return None if entry is None else entry.engine

    def is_loaded(self, path: Path) -> bool:
        """Whether an engine has its model from this folder, or is about to."""
        return self._loader.is_loaded(path)

    # -- calls ----------------------------------------------------------------------------------

    def sampling(self, model: str | None) -> Mapping[str, Any]:
        """Return the default options of a model that generates; raises InvalidOptionError."""
        return self.table.find(model, Role.GENERATE).sampling

    def call(
        self, role: Role, start: Start, *, model: str | None = None, work: int = 1
    ) -> Future[Any]:
        """Start a call on the engine of a model, or as soon as there is one; see EngineSlot.call.

        ``model`` is the name of an entry; without it there must be one for the role. The text model
        embeds, converted, where no other does. Raises InvalidOptionError.
        """
        return self.table.find(model, role).slot.call(start, work=work)

    # -- switching ------------------------------------------------------------------------------

    def reload(self, model_id: str, revision: str | None) -> None:
        """Switch the entries of this model, except the fallback, to this revision."""
        for entry in self.table.all():
            if entry.model_id == model_id and entry.source is None:
                self.switch(model_id, revision, name=entry.name)

    def switch(
        self, model_id: str, revision: str | None = None, *, name: str | None = None
    ) -> None:
        """Give an entry another model; calls made meanwhile are served or wait.

        ``name`` is the entry's; without it, it is the one that generates. Any error leaves the old
        model serving, and is raised; see switch_engine. An entry that is not loaded has the other
        model loaded at its next call.
        """
        entry = self.table.find(None, Role.GENERATE) if name is None else self.table.named(name)
        with self._replacing:
            entry.slot.check_open()
            if self._phase == "closed" or not self._has_opened:
                raise EngineClosedError(model_id)
            before, self._phase = self._phase, "switching"
            try:
                self._switch(entry, model_id, revision)
            except Exception as error:
                self._last_error = error
                raise
            finally:
                if self._phase == "switching":
                    self._phase = before
        self._keeper.nudge()

    def _switch(self, entry: PoolEntry, model_id: str, revision: str | None) -> None:
        settings = replace(
            entry.settings,
            model_id=model_id,
            revision=revision,
            role=entry.role,
            engine=entry.arguments,
        )
        spec, held = self.places.planned(entry, self._loader.spec(entry.name, settings))
        if (old := entry.engine) is not None:
            same = spec == self._loader.spec_of(old)
            if same and old.state in ("ready", "degraded", "recovering"):
                return
            began = time.perf_counter()
            switch_engine(
                self._loader,
                entry.slot,
                old,
                spec,
                load=self.places.build,
                on_loss=lambda why: self._lose(entry, why),
            )
            entry.note_load(time.perf_counter() - began, 0)
        entry.spec, entry.planned_bytes, entry.last_error = spec, held, None
        for each in self.table.all():
            if each.source is entry:  # an embedding engine that is the converted model of before
                self.places.unload(each)
                each.spec = None

    def _lose(self, entry: PoolEntry, error: Exception) -> None:
        """Leave an entry without an engine: the old one cannot be built again either."""
        if entry.settings.pin:
            if self._phase != "closed":
                self._phase = "failed"
            entry.slot.refuse(error)
        else:
            self.places.fail(entry, error)

    def _note_error(self, error: Exception) -> None:
        self._last_error = error
