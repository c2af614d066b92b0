"""EnginePool: the engines of a service, one for each role, and their health."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine_contract import EngineFactory, EngineSpec, Role
from sage.common.components.sage_vllm.errors import EngineClosedError
from sage.common.components.sage_vllm.pool.engine_loader import EngineLoader
from sage.common.components.sage_vllm.pool.engine_slot import EngineSlot, Start
from sage.common.components.sage_vllm.pool.engine_switch import switch_engine
from sage.common.core.background import in_background

logger = logging.getLogger(__name__)

ServiceState = Literal["loading", "ready", "recovering", "switching", "failed", "closed"]


class EnginePool:
    """Holds the engines that a configuration names, and replaces one on demand."""

    def __init__(self, config: VLLMServiceConfig, factory: EngineFactory) -> None:
        self._config = config
        self._loader = EngineLoader(config, factory)
        self._phase: ServiceState = "closed"
        self._last_error: BaseException | None = None
        self._replacing = threading.Lock()  # held by whoever puts engines into slots
        self._fallback_lock = threading.Lock()
        self._fallback_loading = False
        self.text = EngineSlot(config.model_id or "")
        self.embedding = EngineSlot(config.embedding_model_id or config.model_id or "")

    # -- life -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Load the configured models; raises ModelNotFoundError, EngineError or ValueError."""
        with self._replacing:
            self._phase = "loading"
            try:
                self._fill_slots()
            except BaseException as error:
                self._phase = "failed"
                self._last_error = error
                raise
            self._phase = "ready"

    def _fill_slots(self) -> None:
        config, loader = self._config, self._loader
        if config.model_id is not None and config.embedding_model_id is not None:
            loader.share_device(self._text_spec(config.model_id), self._embedding_spec())
        if config.model_id is not None:
            loader.put(loader.load(self._text_spec(config.model_id)), self.text)
        else:
            reason = "this service only embeds: its configuration has no 'model_id'"
            self.text.refuse(ValueError(reason))
        if config.embedding_model_id is not None:
            loader.put(loader.load(self._embedding_spec()), self.embedding)

    def _text_spec(self, model_id: str) -> EngineSpec:
        return self._loader.spec(model_id, self._config.revision, role=Role.GENERATE)

    def _embedding_spec(self) -> EngineSpec:
        config = self._config
        if config.embedding_model_id is not None:
            revision = config.embedding_revision
            return self._loader.spec(config.embedding_model_id, revision, role=Role.EMBED)
        text = self.text.engine
        if text is None:
            raise EngineClosedError(config.model_id or "")
        return self._loader.converted(text)

    def close(self) -> None:
        """End calls in flight with EngineClosedError and free all engines.

        That includes engines that are being loaded or replaced.
        """
        if self._phase != "failed":
            self._phase = "closed"
        for slot in (self.text, self.embedding):
            slot.refuse()  # first of all: closing an engine takes a while
        self._loader.close()
        with self._replacing:  # whoever holds it cannot put an engine into a slot any more
            pass

    @property
    def state(self) -> ServiceState:
        """What the service can do now."""
        if self._phase == "ready":
            engines = (self.text.engine, self.embedding.engine)
            states = {engine.state for engine in engines if engine is not None}
            for state in ("failed", "recovering", "closed"):
                if state in states:
                    return state
        return self._phase

    def health(self) -> dict[str, Any]:
        """Return the state of the service and of each engine, and the latest error, as data."""
        engines = {role: slot.engine for role, slot in self._slots().items()}
        return {
            "state": self.state,
            "engines": {
                role.label: {
                    "model_id": engine.info.model_id,
                    "state": engine.state,
                    "restarts": engine.stats().restarts,
                }
                for role, engine in engines.items()
                if engine is not None
            },
            "last_error": None if self._last_error is None else str(self._last_error),
        }

    def _slots(self) -> dict[Role, EngineSlot]:
        return {Role.GENERATE: self.text, Role.EMBED: self.embedding}

    def is_loaded(self, path: Path) -> bool:
        """Whether an engine has its model from this folder, or is about to."""
        return self._loader.is_loaded(path)

    # -- calls ----------------------------------------------------------------------------------

    def call(self, role: Role, start: Start) -> Future[Any]:
        """Start a call on the engine of a role, or as soon as there is one; see EngineSlot.call.

        The text model embeds, converted, where no embedding model is configured.
        """
        if role is Role.GENERATE:
            return self.text.call(start)
        called = self.embedding.call(start)
        self._ensure_embedding()  # not before: a switch may empty the slot at any time
        return called

    def _ensure_embedding(self) -> None:
        """Have the fallback for embedding loaded, unless there is an embedding engine."""
        with self._fallback_lock:
            if self.embedding.engine is not None or self._fallback_loading:
                return
            self._fallback_loading = True
        in_background(self._load_fallback)

    def _load_fallback(self) -> None:
        failure: Exception | None = None
        try:
            with self._replacing:
                if self.embedding.engine is None:  # else it was only on its way
                    self._put_fallback()
        except Exception as error:  # noqa: BLE001 - it belongs to the calls that wait for it
            failure = error
        self._fallback_loading = False  # first: a call that comes from now on tries again
        if failure is not None:
            self.embedding.fail_waiting(failure)

    def _put_fallback(self) -> None:
        spec = self._embedding_spec()
        logger.warning(
            "no embedding_model_id is configured: embedding with the text model %s, converted, "
            "which is slower and less accurate than an embedding model",
            spec.model_id,
        )
        self._loader.put(self._loader.load(spec), self.embedding)

    def _drop_fallback(self) -> None:
        """Free an embedding engine that is the converted text model of before."""
        if self._config.embedding_model_id is None:
            converted = self.embedding.take_out()
            if converted is not None:
                self._loader.retire(converted)

    # -- switching ------------------------------------------------------------------------------

    def reload(self, model_id: str, revision: str | None) -> None:
        """Have the engines of this model, but for the fallback, switch to this revision of it."""
        roles = self._slots()
        if self._config.embedding_model_id is None:
            del roles[Role.EMBED]
        for role, slot in roles.items():
            if (engine := slot.engine) is not None and engine.info.model_id == model_id:
                self.switch(model_id, revision, role=role)

    def switch(
        self, model_id: str, revision: str | None = None, *, role: Role = Role.GENERATE
    ) -> None:
        """Replace an engine by one of another model; calls made meanwhile are served or wait.

        Any error leaves the old model serving, and is raised; see switch_engine.
        """
        slot = self._slots()[role]
        with self._replacing:
            old = slot.engine
            if self._phase in ("closed", "failed") or old is None:
                slot.check_open()
                raise EngineClosedError(model_id)
            self._phase = "switching"
            try:
                spec = self._loader.spec(model_id, revision, role=role)
                if spec == self._loader.spec_of(old) and old.state in ("ready", "recovering"):
                    return
                switch_engine(self._loader, slot, old, spec)
            except Exception as error:
                self._last_error = error
                raise
            finally:
                if self._phase == "switching":
                    self._phase = "failed" if slot.engine is None else "ready"
            if role is Role.GENERATE:
                self._drop_fallback()
