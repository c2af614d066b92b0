"""RegistryCalls: the registry's models, as a service's callers see and change them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.errors import ModelInUseError
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.requests.gather import wait_for
from sage.common.core.background import in_background
from sage.common.model_registry import vllm_registry
from sage.common.model_registry.vllm_registry import ModelInfo


class RegistryCalls:
    """The part of a VLLMService that works on the registry, beside its running engines."""

    config: VLLMServiceConfig
    _engines: EnginePool
    _check_open: Callable[[], None]
    stats: Callable[[], dict[str, Any]]

    def show_models(self) -> list[dict[str, Any]]:
        """Return the registry's models as plain data."""
        return [_record(model) for model in vllm_registry.list_models(root=self.config.model_root)]

    def download_model(self, model_id: str, revision: str | None = None) -> dict[str, Any]:
        """Download a model into the registry; returns its record.

        With ``auto_reload``, an engine that has another revision of it is switched to this one.
        """
        root = self.config.model_root
        model = vllm_registry.download_model(model_id, revision, progress=False, root=root)
        self._engines.models.choose(model_id, revision, model.commit)
        if self.config.auto_reload:
            self._engines.reload(model_id, revision)
        return _record(model)

    def delete_model(self, model_id: str, revision: str | None = None) -> dict[str, Any]:
        """Delete a model, or one revision of it; returns ``freed_bytes`` and the records.

        Raises ModelInUseError for a model that is loaded and for an adapter that a call is using,
        and as the registry's delete_model.
        """
        root = self.config.model_root
        plan = vllm_registry.plan_deletion(model_id, revision, root=root)
        for model in plan.models:
            if self._engines.is_loaded(model.path):
                raise ModelInUseError(model_id)
            if self._engines.adapters.is_in_use(model.path):
                raise ModelInUseError(model_id, by_call=True)
        done = vllm_registry.delete_model(model_id, revision, root=root)
        return {"freed_bytes": done.freed_bytes, "models": [_record(m) for m in done.models]}

    def switch_model(
        self, model_id: str, revision: str | None = None, *, name: str | None = None
    ) -> dict[str, Any]:
        """Replace the text model by another one of the registry; returns ``stats``.

        ``name`` replaces another of the service's models instead; one that is not loaded now is
        loaded at its next call.

        The new engine is loaded beside the old one where memory holds both, else after it. Calls
        made meanwhile are served or wait; none fails, and each is answered by one model, which
        its ``model_id`` names. Any error leaves the old model serving and is raised:
        ModelNotFoundError, InsufficientMemoryError, EngineError or ValueError.
        """
        self._check_open()
        # On a thread of its own: a switch that a Ctrl-C cut short could leave no model.
        wait_for(in_background(self._engines.switch, model_id, revision, name=name))
        return self.stats()


def _record(model: ModelInfo) -> dict[str, Any]:
    """Return a registry record with the absolute path of its folder."""
    return {**model.to_json(), "path": str(model.path)}
