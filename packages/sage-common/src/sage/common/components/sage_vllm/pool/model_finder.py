"""ModelFinder: where a service's models lie on this machine, and how they come there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.replicas.model_origin import ModelOrigin
from sage.common.model_registry import vllm_registry
from sage.common.model_registry.download.model_copy import copy_model
from sage.common.model_registry.errors import (
    HubAccessError,
    HubModelNotFoundError,
    HubUnavailableError,
    ModelNotFoundError,
)
from sage.common.model_registry.vllm_registry import ModelInfo, format_bytes

logger = logging.getLogger(__name__)


class ModelFinder:
    """Finds models in the registry of this machine; with ``auto_download`` it fetches them.

    A service that is one of several on a cluster has the commit that all of them have, see
    ModelOrigin. If this machine lacks it, it is copied from the registry of the process that has
    the pipeline, once for all replicas here.
    """

    def __init__(self, config: VLLMServiceConfig) -> None:
        self._config = config
        self._root = config.model_root
        self._here = ModelOrigin(config.model_root).record
        self.call_origin: Callable[..., Future[Any]] | None = None
        """Calls a ModelOrigin; None where the service is one alone."""
        self._chosen: dict[tuple[str, str | None], str] = {}

    def get(self, model_id: str, revision: str | None) -> ModelInfo:
        """Return the record of a model that is in the registry now.

        Raises ModelNotFoundError, RevisionNotFoundError, and what downloading and copying raise.
        """
        if self.call_origin is None:
            if self._config.auto_download:
                self._download(model_id, revision, vllm_registry.ensure_model_available)
            return vllm_registry.get_model(model_id, revision, root=self._root)
        chosen = self.chosen(model_id, revision)
        here = self._here(model_id, chosen or revision)
        commit = chosen or self._agree(model_id, revision, here)
        if commit is None and self._config.auto_download:
            self._download(model_id, revision, vllm_registry.ensure_model_available)
            here = self._here(model_id, revision)
            commit = self._agree(model_id, revision, here)
        if commit is None:
            raise self._nowhere(model_id, f", revision {revision!r}," if revision else "")
        if here is None or here.commit != commit:
            here = self._here(model_id, commit) or self._bring(model_id, commit)
        self._chosen.setdefault((model_id, revision), commit)
        return here

    def chosen(self, model_id: str, revision: str | None) -> str | None:
        """Return the commit that a revision means in all copies, None if that is not settled."""
        return self._chosen.get((model_id, revision))

    def choose(self, model_id: str, revision: str | None, commit: str) -> None:
        """Have a revision mean another commit from now on: a call to all replicas brought it."""
        self._chosen[model_id, revision] = commit

    def _agree(self, model_id: str, revision: str | None, here: ModelInfo | None) -> str | None:
        commit: str | None = self._ask(
            "agree", model_id, revision, None if here is None else here.commit
        )
        return commit

    def _bring(self, model_id: str, commit: str) -> ModelInfo:
        """Download or copy a model that is not on this machine."""
        there: ModelInfo | None = self._ask("record", model_id, commit)
        if self._config.auto_download and (there is None or there.source == "hub"):
            try:
                self._download(model_id, commit, vllm_registry.download_model)
                return vllm_registry.get_model(model_id, commit, root=self._root)
            except (HubUnavailableError, HubAccessError, HubModelNotFoundError) as error:
                if there is None:
                    raise
                logger.warning("copying %s, since it cannot be downloaded: %s", model_id, error)
        if there is None:
            raise self._nowhere(model_id, f", at the other replicas' commit {commit},")
        root = vllm_registry.registry_root(self._root)
        logger.info("copying %s, %s, to %s", model_id, format_bytes(there.size_bytes), root)
        return copy_model(there, partial(self._call, "read", model_id, there.commit), root=root)

    def _nowhere(self, model_id: str, which: str) -> ModelNotFoundError:
        root = vllm_registry.registry_root(self._root)
        return ModelNotFoundError(
            model_id,
            root=root,
            problem=f"Model {model_id!r}{which} is neither in this machine's registry at "
            f"{root} nor in that of the pipeline's process at {self._ask('root')}.",
            hint=f"Run `sage llm model download --model {model_id}` on either machine.",
        )

    def _download(
        self, model_id: str, revision: str | None, download: Callable[..., object]
    ) -> None:
        pickles = self._config.allow_pickle
        download(model_id, revision, progress=False, root=self._root, allow_pickle=pickles)

    def _ask(self, method: str, *args: Any) -> Any:
        return self._call(method, *args).result()

    def _call(self, method: str, *args: Any) -> Future[Any]:
        assert self.call_origin is not None  # noqa: S101 - for the type checker
        return self.call_origin(method, *args)
