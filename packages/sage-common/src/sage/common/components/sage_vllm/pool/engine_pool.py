"""EnginePool: the engines of a service, one for each role: loading, switching, their health."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sage.common.components.sage_vllm.background import in_background
from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine_contract import (
    Engine,
    EngineFactory,
    EngineInfo,
    EngineSpec,
    Role,
    SharesDevice,
)
from sage.common.components.sage_vllm.errors import EngineClosedError, EngineStartError
from sage.common.components.sage_vllm.fit.memory_check import InsufficientMemoryError
from sage.common.components.sage_vllm.pool.engine_slot import EngineSlot
from sage.common.model_registry import vllm_registry

logger = logging.getLogger(__name__)

ServiceState = Literal["loading", "ready", "recovering", "switching", "failed", "closed"]

_PROBE_SECONDS = 60.0


class EnginePool:
    """Loads the engines that a configuration names, and replaces the text engine on demand."""

    def __init__(self, config: VLLMServiceConfig, factory: EngineFactory) -> None:
        self._config = config
        self._factory = factory
        self._specs: dict[Engine, EngineSpec] = {}
        self._loading: dict[Path, int] = {}
        self._phase: ServiceState = "closed"
        self._last_error: BaseException | None = None
        self._replacing = threading.Lock()  # held by whoever puts engines into slots
        self._fallback_lock = threading.Lock()
        self._fallback_loading = False
        self._arguments = {"generate": config.engine, "embed": config.embedding_engine}
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
        config = self._config
        if config.model_id is not None and config.embedding_model_id is not None:
            self._share_device(config.model_id)
        if config.model_id is not None:
            text = self._spec(config.model_id, config.revision, role="generate")
            self._put_or_close(self.text, self._load(text))
        else:
            reason = "this service only embeds: its configuration has no 'model_id'"
            self.text.refuse(ValueError(reason))
        if config.embedding_model_id is not None:
            self._put_or_close(self.embedding, self._load(self._embedding_spec()))

    def close(self) -> None:
        """End calls in flight with EngineClosedError and free all engines, those too that are being
        loaded or replaced."""
        if self._phase != "failed":
            self._phase = "closed"
        for slot in (self.text, self.embedding):
            slot.refuse()  # first of all: closing an engine takes a while
        for engine in list(self._specs):
            engine.close()
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
        engines = {"text": self.text.engine, "embedding": self.embedding.engine}
        return {
            "state": self.state,
            "engines": {
                role: {
                    "model_id": engine.info.model_id,
                    "state": engine.state,
                    "restarts": engine.stats().restarts,
                }
                for role, engine in engines.items()
                if engine is not None
            },
            "last_error": None if self._last_error is None else str(self._last_error),
        }

    def is_loaded(self, path: Path) -> bool:
        """Whether an engine has its model from this folder, or is about to."""
        paths = [spec.path for spec in list(self._specs.values())]
        return path in self._loading or path in paths

    # -- the embedding engine -------------------------------------------------------------------

    def ensure_embedding(self) -> None:
        """Have the fallback for embedding loaded, unless there is an embedding engine.

        To be called after a call was put into the slot: a switch may empty it at any time.
        """
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
        self._put_or_close(self.embedding, self._load(spec))

    # -- switching ------------------------------------------------------------------------------

    def reload(self, model_id: str, revision: str | None) -> None:
        """Have the engines of this model, but for the fallback, switch to this revision of it."""
        roles: dict[Role, EngineSlot] = {"generate": self.text, "embed": self.embedding}
        if self._config.embedding_model_id is None:
            del roles["embed"]
        for role, slot in roles.items():
            if (engine := slot.engine) is not None and engine.info.model_id == model_id:
                self.switch(model_id, revision, role=role)

    def switch(
        self, model_id: str, revision: str | None = None, *, role: Role = "generate"
    ) -> None:
        """Replace an engine by one of another model; calls made meanwhile are served or wait.

        Any error leaves the old model serving, and is raised.
        """
        slot = self.text if role == "generate" else self.embedding
        with self._replacing:
            old = slot.engine
            if self._phase in ("closed", "failed") or old is None:
                slot.check_open()
                raise EngineClosedError(model_id)
            self._phase = "switching"
            try:
                spec = self._spec(model_id, revision, role=role)
                if spec == self._specs[old] and old.state in ("ready", "recovering"):
                    return
                self._replace(slot, old, spec)
            except Exception as error:
                self._last_error = error
                raise
            finally:
                if self._phase == "switching":
                    self._phase = "ready"
            if role == "generate":
                self._drop_fallback()

    def _replace(self, slot: EngineSlot, old: Engine, spec: EngineSpec) -> None:
        try:
            new = self._load(spec)
        except InsufficientMemoryError as error:
            if not fits_instead_of(old.info, error):
                raise
        else:
            self._probe(new)
            self._put_or_close(slot, new)
            self._retire(old)
            return
        logger.info("%s and %s do not fit side by side", old.info.model_id, spec.model_id)
        self._replace_in_turn(slot, old, spec)

    def _replace_in_turn(self, slot: EngineSlot, old: Engine, spec: EngineSpec) -> None:
        """Free the old engine, then load the new one; calls wait in between."""
        old_spec = self._specs[old]
        slot.take_out()
        self._retire(old)
        try:
            new = self._load(spec)
            self._probe(new)
        except Exception:
            try:
                again = self._load(old_spec)
            except Exception as error:
                self._fail(slot, error)
                raise
            self._put_or_close(slot, again)
            raise
        self._put_or_close(slot, new)

    def _fail(self, slot: EngineSlot, error: Exception) -> None:
        if self._phase != "closed":
            self._phase = "failed"
        slot.refuse(error)

    def _probe(self, engine: Engine) -> None:
        """Have a new engine do its work once, so that a broken one never gets a caller."""
        embeds = self._specs[engine].role == "embed"
        try:
            future: Future[Any] = (
                engine.embed("Hello", normalize=True)
                if embeds
                else engine.submit("Hello", {"max_tokens": 1, "temperature": 0})
            )
            future.result(_PROBE_SECONDS)
        except Exception as error:
            self._retire(engine, drain=False)
            reason = f"it loads but does not {'embed' if embeds else 'generate'}: {error}"
            raise EngineStartError(engine.info.model_id, reason) from error

    def _drop_fallback(self) -> None:
        """Free an embedding engine that is the converted text model of before."""
        if self._config.embedding_model_id is None:
            converted = self.embedding.take_out()
            if converted is not None:
                self._retire(converted)

    def _retire(self, engine: Engine, *, drain: bool = True) -> None:
        engine.close(drain=drain)
        self._specs.pop(engine, None)

    def _put_or_close(self, slot: EngineSlot, engine: Engine) -> None:
        try:
            slot.put(engine)
        except Exception:  # the service was closed while the engine was built
            self._retire(engine, drain=False)
            raise

    def _share_device(self, text_model_id: str) -> None:
        """Fix the engines' arguments such that both fit one device."""
        if not isinstance(self._factory, SharesDevice):
            return
        text, embedding = self._factory.share_device(
            self._spec(text_model_id, self._config.revision, role="generate"),
            self._embedding_spec(),
        )
        self._arguments = {"generate": text.arguments, "embed": embedding.arguments}

    # -- loading --------------------------------------------------------------------------------

    def _embedding_spec(self) -> EngineSpec:
        config = self._config
        if config.embedding_model_id is not None:
            return self._spec(config.embedding_model_id, config.embedding_revision, role="embed")
        text = self.text.engine
        if text is None:
            raise EngineClosedError(config.model_id or "")
        return replace(self._specs[text], role="embed", arguments=config.embedding_engine)

    def _spec(self, model_id: str, revision: str | None, *, role: Role) -> EngineSpec:
        config = self._config
        root = config.model_root
        if config.auto_download:
            vllm_registry.ensure_model_available(model_id, revision, progress=False, root=root)
        model = vllm_registry.get_model(model_id, revision, root=root)
        return EngineSpec(
            model_id=model_id,
            path=model.path,
            role=role,
            mode=config.engine_mode,
            arguments=self._arguments[role],
            allow_pickle=config.allow_pickle,
        )

    def _load(self, spec: EngineSpec) -> Engine:
        root = self._config.model_root
        if self._phase == "closed":
            raise EngineClosedError(spec.model_id)
        self._loading[spec.path] = self._loading.get(spec.path, 0) + 1
        try:
            with suppress(vllm_registry.RegistryNotWritableError):  # a shared one may be read-only
                vllm_registry.touch_model(spec.model_id, spec.path.name, root=root)
            logger.info("loading %s from %s", spec.model_id, spec.path)
            began = time.perf_counter()
            engine = self._factory(spec)
            logger.info("loaded %s in %.1f s", spec.model_id, time.perf_counter() - began)
            self._specs[engine] = spec
            return engine
        finally:
            self._loading[spec.path] -= 1
            if not self._loading[spec.path]:
                del self._loading[spec.path]


def fits_instead_of(old: EngineInfo, error: InsufficientMemoryError) -> bool:
    """Whether a model that does not fit beside an engine would fit in its place."""
    if error.estimate is None:
        return False
    room = error.available + old.memory_bytes
    if error.share_bytes is not None:
        return error.estimate.total_bytes <= error.share_bytes <= room
    return error.estimate.total_bytes <= room
