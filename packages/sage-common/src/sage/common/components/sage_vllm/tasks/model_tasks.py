"""ModelTasks: the registry's models, as a service's callers see and change them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.errors import ModelInUseError
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.requests.lora_adapter import LoraAdapters
from sage.common.model_registry import vllm_registry
from sage.common.model_registry.vllm_registry import ModelInfo


class ModelTasks:
    """Shows, downloads and deletes models of the registry at ``root``, beside running engines.

    With ``auto_reload`` an engine changes to a revision of its model that was downloaded.
    """

    def __init__(
        self, root: Path | None, engines: EnginePool, adapters: LoraAdapters, *, auto_reload: bool
    ) -> None:
        self._root = root
        self._engines = engines
        self._adapters = adapters
        self._auto_reload = auto_reload

    def show(self) -> list[dict[str, Any]]:
        """Return a record per model."""
        return [_record(model) for model in vllm_registry.list_models(root=self._root)]

    def download(self, model_id: str, revision: str | None) -> dict[str, Any]:
        """Download a model and return its record."""
        model = vllm_registry.download_model(model_id, revision, progress=False, root=self._root)
        if self._auto_reload:
            self._engines.reload(model_id, revision)
        return _record(model)

    def delete(self, model_id: str, revision: str | None) -> dict[str, Any]:
        """Delete a model, or one revision of it; raises ModelInUseError for one that is in use."""
        plan = vllm_registry.plan_deletion(model_id, revision, root=self._root)
        if any(
            self._engines.is_loaded(model.path) or self._adapters.is_in_use(model.path)
            for model in plan.models
        ):
            raise ModelInUseError(model_id)
        done = vllm_registry.delete_model(model_id, revision, root=self._root)
        return {"freed_bytes": done.freed_bytes, "models": [_record(m) for m in done.models]}


def _record(model: ModelInfo) -> dict[str, Any]:
    """Return a registry record with the absolute path of its folder."""
    return {**model.to_json(), "path": str(model.path)}
