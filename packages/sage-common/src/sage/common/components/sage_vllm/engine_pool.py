"""EnginePool: the engines of a service, one for each role: loading, switching, their health."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine import (
    Engine,
    EngineFactory,
    EngineSpec,
    SharesDevice,
)
from sage.common.components.sage_vllm.engine_slot import EngineSlot
from sage.common.components.sage_vllm.errors import EngineClosedError, EngineStartError
from sage.common.components.sage_vllm.memory_check import InsufficientMemoryError
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
        self._switching = threading.Lock()
        self._fallback_lock = threading.Lock()
        self._fallback_loading = False
        self._arguments = {"generate": config.engine, "embed": config.embedding_engine}
        self.text = EngineSlot(config.model_id or "")
        self.embedding = EngineSlot(config.embedding_model_id or config.model_id or "")

    # -- life -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Load the configured models; raises ModelNotFoundError, EngineError or ValueError."""
        config = self._config
        self._phase = "loading"
        try:
            if config.model_id is not None and config.embedding_model_id is not None:
                self._share_device(config.model_id)
            if config.model_id is not None:
                self.text.put(self._load(self._text_spec(config.model_id, config.revision)))
            else:
                reason = "this service only embeds: its configuration has no 'model_id'"
                self.text.refuse(ValueError(reason))
            if config.embedding_model_id is not None:
                self.embedding.put(self._load(self._embedding_spec()))
        except BaseException as error:
            self._phase = "failed"
            self._last_error = error
            raise
        self._phase = "ready"

    def close(self) -> None:
        """End calls in flight with EngineClosedError and free the engines."""
        if self._phase != "failed":
            self._phase = "closed"
        slots = (self.text, self.embedding)
        for slot in slots:
            slot.refuse()  # first of all: closing an engine takes a while
        for slot in slots:
            slot.close()

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
        return {
            "state": self.state,
            "engines": {
                role: {
                    "model_id": slot.engine.info.model_id,
                    "state": slot.engine.state,
                    "restarts": slot.engine.stats().restarts,
                }
                for role, slot in (("text", self.text), ("embedding", self.embedding))
                if slot.engine is not None
            },
            "last_error": None if self._last_error is None else str(self._last_error),
        }

    def is_loaded(self, path: Path) -> bool:
        """Whether an engine has its model from this folder, or is about to."""
        return path in self._loading or any(spec.path == path for spec in self._specs.values())

    # -- the embedding engine -------------------------------------------------------------------

    def ensure_embedding(self, run: Callable[[Callable[[], None]], Any]) -> None:
        """Have ``run`` load the fallback for embedding, unless there is an embedding engine.

        To be called after a call was put into the slot: a switch may empty it at any time.
        """
        with self._fallback_lock:
            if self.embedding.engine is not None or self._fallback_loading:
                return
            self._fallback_loading = True
        run(self._load_fallback)

    def _load_fallback(self) -> None:
        spec = self._embedding_spec()
        logger.warning(
            "no embedding_model_id is configured: embedding with the text model %s, converted, "
            "which is slower and less accurate than an embedding model",
            spec.model_id,
        )
        try:
            self._put_or_close(self.embedding, self._load(spec))
        except Exception as error:  # noqa: BLE001 - it belongs to the calls that wait for it
            self._fallback_loading = False  # a call that comes from now on tries again
            self.embedding.fail_waiting(error)
        self._fallback_loading = False

    # -- switching ------------------------------------------------------------------------------

    def switch(self, model_id: str, revision: str | None = None) -> EngineSpec:
        """Replace the text engine; calls made meanwhile are served or wait.

        Any error leaves the old model serving, and is raised.
        """
        with self._switching:
            old = self.text.engine
            if self._phase in ("closed", "failed") or old is None:
                self.text.check_open()
                raise EngineClosedError(model_id)
            self._phase = "switching"
            try:
                spec = self._text_spec(model_id, revision)
                if spec == self._specs[old] and old.state in ("ready", "recovering"):
                    return spec
                self._replace(old, spec)
            except Exception as error:
                self._last_error = error
                raise
            finally:
                if self._phase == "switching":
                    self._phase = "ready"
            self._drop_fallback()
            return spec

    def _replace(self, old: Engine, spec: EngineSpec) -> None:
        try:
            new = self._load(spec)
        except InsufficientMemoryError as error:
            if not _fits_instead_of(old, error):
                raise
        else:
            self._probe(new)
            self._put_or_close(self.text, new)
            self._retire(old)
            return
        logger.info("%s and %s do not fit side by side", old.info.model_id, spec.model_id)
        self._replace_in_turn(old, spec)

    def _replace_in_turn(self, old: Engine, spec: EngineSpec) -> None:
        """Free the old engine, then load the new one; calls wait in between."""
        old_spec = self._specs[old]
        self.text.take_out()
        self._retire(old)
        try:
            new = self._load(spec)
            self._probe(new)
        except Exception:
            try:
                again = self._load(old_spec)
            except Exception as error:
                self._phase = "failed"
                self.text.close(error)
                raise
            self._put_or_close(self.text, again)
            raise
        self._put_or_close(self.text, new)

    def _probe(self, engine: Engine) -> None:
        """Have a new engine generate one token, so that a broken one never gets a caller."""
        try:
            engine.submit("Hello", {"max_tokens": 1, "temperature": 0}).result(_PROBE_SECONDS)
        except Exception as error:
            self._retire(engine, drain=False)
            reason = f"it loads but does not generate: {error}"
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
            self._text_spec(text_model_id, self._config.revision), self._embedding_spec()
        )
        self._arguments = {"generate": text.arguments, "embed": embedding.arguments}

    # -- loading --------------------------------------------------------------------------------

    def _text_spec(self, model_id: str, revision: str | None) -> EngineSpec:
        return self._spec(model_id, revision, role="generate")

    def _embedding_spec(self) -> EngineSpec:
        config = self._config
        if config.embedding_model_id is not None:
            return self._spec(config.embedding_model_id, config.embedding_revision, role="embed")
        text = self.text.engine
        if text is None:
            raise EngineClosedError(config.model_id or "")
        return replace(self._specs[text], role="embed", arguments=config.embedding_engine)

    def _spec(
        self, model_id: str, revision: str | None, *, role: Literal["generate", "embed"]
    ) -> EngineSpec:
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


def _fits_instead_of(old: Engine, error: InsufficientMemoryError) -> bool:
    """Whether a model that does not fit beside an engine would fit in its place."""
    if error.estimate is None:
        return False
    return error.estimate.total_bytes <= error.available + old.info.memory_bytes
