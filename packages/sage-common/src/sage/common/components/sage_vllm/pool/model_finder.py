"""ModelFinder: where a service's models lie on this machine, and how they come there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.model_registry import vllm_registry
from sage.common.model_registry.download.model_copy import copy_model
from sage.common.model_registry.errors import (
    HubAccessError,
    HubModelNotFoundError,
    HubUnavailableError,
    ModelNotFoundError,
    RevisionNotFoundError,
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
        chosen = self._chosen.get((model_id, revision))
        here = self._here(model_id, chosen or revision)
        commit = chosen or self._agree(model_id, revision, here)
        if commit is None and self._config.auto_download:
            self._download(model_id, revision, vllm_registry.ensure_model_available)
            here = self._here(model_id, revision)
            commit = self._agree(model_id, revision, here)
        if here is not None and here.commit == commit:
            return here
        return self._here(model_id, commit) or self._bring(model_id, commit)

    def choose(self, model_id: str, revision: str | None, commit: str) -> None:
        """Have a revision mean another commit from now on: a call to all replicas brought it."""
        self._chosen[model_id, revision] = commit

    def _here(self, model_id: str, revision: str | None) -> ModelInfo | None:
        with suppress(ModelNotFoundError, RevisionNotFoundError):
            return vllm_registry.get_model(model_id, revision, root=self._root)
        return None

    def _agree(self, model_id: str, revision: str | None, here: ModelInfo | None) -> str | None:
        commit: str | None = self._ask(
            "agree", model_id, revision, None if here is None else here.commit
        )
        return commit

    def _bring(self, model_id: str, commit: str | None) -> ModelInfo:
        """Download or copy a model that is not on this machine."""
        there: ModelInfo | None = None if commit is None else self._ask("record", model_id, commit)
        if self._config.auto_download and (there is None or there.source == "hub"):
            try:
                self._download(model_id, commit, vllm_registry.download_model)
                return vllm_registry.get_model(model_id, commit, root=self._root)
            except (HubUnavailableError, HubAccessError, HubModelNotFoundError) as error:
                if there is None:
                    raise
                logger.warning("copying %s, since it cannot be downloaded: %s", model_id, error)
        root = vllm_registry.registry_root(self._root)
        if there is None:
            which = "" if commit is None else f", at the other replicas' commit {commit},"
            raise ModelNotFoundError(
                model_id,
                root=root,
                problem=f"Model {model_id!r}{which} is neither in this machine's registry at "
                f"{root} nor in that of the pipeline's process at {self._ask('root')}.",
                hint=f"Run `sage llm model download --model {model_id}` on either machine.",
            )
        logger.info("copying %s, %s, to %s", model_id, format_bytes(there.size_bytes), root)
        assert self.call_origin is not None  # noqa: S101 - for the type checker
        read = partial(self.call_origin, "read", model_id, there.commit)
        return copy_model(there, read, root=root)

    def _download(
        self, model_id: str, revision: str | None, download: Callable[..., object]
    ) -> None:
        pickles = self._config.allow_pickle
        download(model_id, revision, progress=False, root=self._root, allow_pickle=pickles)

    def _ask(self, method: str, *args: Any) -> Any:
        assert self.call_origin is not None  # noqa: S101 - for the type checker
        return self.call_origin(method, *args).result()
