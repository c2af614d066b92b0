"""EngineLoader: from a model's name to an engine that works, and back to nothing."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine_abilities import SharesDevice
from sage.common.components.sage_vllm.engine_contract import (
    Engine,
    EngineFactory,
    EngineSpec,
    Role,
)
from sage.common.components.sage_vllm.errors import EngineClosedError, EngineStartError
from sage.common.components.sage_vllm.model_settings import ModelSettings
from sage.common.components.sage_vllm.pool.engine_slot import EngineSlot
from sage.common.components.sage_vllm.pool.model_finder import ModelFinder
from sage.common.components.sage_vllm.replicas.replicated_engine import build
from sage.common.model_registry import vllm_registry
from sage.common.model_registry.model_traits import type_of_class
from sage.common.model_registry.weights import read_json

logger = logging.getLogger(__name__)

_PROBE_SECONDS = 60.0


class EngineLoader:
    """Builds engines as a configuration says, and knows all that are built or being built."""

    def __init__(self, config: VLLMServiceConfig, factory: EngineFactory) -> None:
        self._config = config
        self._factory = factory
        self.models = ModelFinder(config)
        self._specs: dict[Engine, EngineSpec] = {}
        self._loading: dict[Path, int] = {}
        self._closed = False

    # -- what is to be built ----------------------------------------------------------------------

    def spec(self, name: str, settings: ModelSettings) -> EngineSpec:
        """Return what the engine of an entry is built from; raises ModelNotFoundError.

        A model that is missing may be fetched, see ModelFinder.
        """
        config, model_id = self._config, settings.model_id
        model = self.models.get(model_id, settings.revision)
        role = settings.role or Role.of_tags(model.tags)
        if role is Role.EMBED and model.tags.get("type") == "text" and _generates(model.path):
            logger.warning(
                "%s is a text model: embedding with it, converted, is slower and less accurate "
                "than with an embedding model",
                model_id,
            )
        return EngineSpec(
            model_id=model_id,
            path=model.path,
            role=role,
            mode=settings.engine_mode or config.engine_mode,
            arguments=settings.engine,
            allow_pickle=config.allow_pickle,
            replicas=settings.replicas,
            option=f"models.{name}.engine" if name in config.models else "",
        )

    def spec_of(self, engine: Engine) -> EngineSpec:
        """Return what an engine was built from."""
        return self._specs[engine]

    def converted(self, text: EngineSpec) -> EngineSpec:
        """Return the spec of an engine that embeds with a text model, converted for that."""
        arguments = self._config.embedding_engine
        return replace(
            text, role=Role.EMBED, arguments=arguments, option=Role.EMBED.option, replicas=1
        )

    def shared(self, *specs: EngineSpec) -> tuple[EngineSpec, ...]:
        """Return them with arguments by which all fit one device."""
        if len(specs) > 1 and isinstance(self._factory, SharesDevice):
            return self._factory.share_device(*specs)
        return specs

    def is_loaded(self, path: Path) -> bool:
        """Whether an engine has its model from this folder, or is about to."""
        paths = [spec.path for spec in list(self._specs.values())]
        return path in self._loading or path in paths

    # -- building, and the end --------------------------------------------------------------------

    def load(self, spec: EngineSpec) -> Engine:
        """Build an engine; raises what the factory does, and EngineClosedError after ``close``.

        Raises ModelNotFoundError for a model that was deleted since its spec was made.
        """
        if self._closed:
            raise EngineClosedError(spec.model_id)
        vllm_registry.get_model(spec.model_id, spec.path.name, root=self._config.model_root)
        self._loading[spec.path] = self._loading.get(spec.path, 0) + 1
        try:
            with suppress(vllm_registry.RegistryNotWritableError):  # a shared one may be read-only
                root = self._config.model_root
                vllm_registry.touch_model(spec.model_id, spec.path.name, root=root)
            logger.info("loading %s from %s", spec.model_id, spec.path)
            began = time.perf_counter()
            engine = build(self._factory, spec)
            logger.info("loaded %s in %.1f s", spec.model_id, time.perf_counter() - began)
            self._specs[engine] = spec
            return engine
        finally:
            self._loading[spec.path] -= 1
            if not self._loading[spec.path]:
                del self._loading[spec.path]

    def probe(self, engine: Engine) -> None:
        """Have a new engine do its work once, so that a broken one never gets a caller.

        Raises EngineStartError, and retires an engine that does not.
        """
        role = self._specs[engine].role
        try:
            future: Future[Any]
            if role is Role.EMBED:
                future = engine.embed("Hello", normalize=True)
            elif role is Role.SCORE:
                future = engine.classify("Hello", activation=True)
            else:
                future = engine.submit("Hello", {"max_tokens": 1, "temperature": 0})
            future.result(_PROBE_SECONDS)
        except Exception as error:
            self.retire(engine, drain=False)
            reason = f"it loads but does not {role.value}: {error}"
            raise EngineStartError(engine.info.model_id, reason) from error

    def put(self, engine: Engine, slot: EngineSlot) -> None:
        """Put an engine into a slot.

        If the slot was closed meanwhile, retire the engine and raise what the slot does.
        """
        try:
            slot.put(engine)
        except Exception:
            self.retire(engine, drain=False)
            raise

    def retire(self, engine: Engine, *, drain: bool = True) -> None:
        """Close an engine, with ``drain`` after its calls in flight, and forget it."""
        engine.close(drain=drain)
        self._specs.pop(engine, None)

    def close(self) -> None:
        """Close all engines, and build no more."""
        self._closed = True
        for engine in list(self._specs):
            engine.close()


def _generates(folder: Path) -> bool:
    """Whether a model's class says that it generates; the registry's type is also a guess."""
    return type_of_class(read_json(folder / "config.json", dict), unknown="") == "text"
