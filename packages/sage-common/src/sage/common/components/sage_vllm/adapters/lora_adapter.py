"""The LoRA adapters that calls name, found in the registry."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.engine_contract import LoraAdapter
from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.pool.model_finder import ModelFinder
from sage.common.model_registry import vllm_registry
from sage.common.service.replication import NotHereYet

_LISTED = "'sage llm model show' lists the adapters with the type lora"


def find_adapter(name: Any, root: Path | None) -> LoraAdapter:
    """Return an adapter of the registry by its id, or by ``id@revision``.

    Raises ModelNotFoundError or RevisionNotFoundError, or InvalidOptionError for what is no
    adapter.
    """
    if not isinstance(name, str):
        problem = f"lora must be the id of an adapter in the registry, not {name!r}"
        raise InvalidOptionError("lora", name, problem, hint=_LISTED)
    model_id, _, revision = name.partition("@")
    model = vllm_registry.get_model(model_id, revision or None, root=root)
    config = model.path / "adapter_config.json"
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
        ranks = [settings["r"], *(settings.get("rank_pattern") or {}).values()]
        rank = max(map(int, ranks))  # as vLLM takes it
    except FileNotFoundError:
        problem = f"{name!r} is no LoRA adapter: it has no adapter_config.json"
        raise InvalidOptionError("lora", name, problem, hint=_LISTED) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{config} says no rank 'r' of the adapter: {error}"
        hint = "download or import the adapter again"
        raise InvalidOptionError("lora", name, problem, hint=hint) from error
    base = settings.get("base_model_name_or_path")
    return LoraAdapter(
        name=model_id,
        commit=model.commit,
        path=model.path,
        rank=rank,
        base=base if isinstance(base, str) and base else None,
    )


class LoraAdapters:
    """Finds the adapters that calls name, and knows which of them calls are using.

    ``models`` brings those that are missing to a service that is one of several on a cluster.
    """

    def __init__(self, root: Path | None, models: ModelFinder | None = None) -> None:
        self._root = root
        self._models = models
        self._bringing = threading.Lock()
        self._lock = threading.Lock()
        self._calls: Counter[Path] = Counter()  # that are not done, by the adapter's folder

    def find(self, name: str) -> LoraAdapter:
        """Return an adapter by its id, as find_adapter does.

        In a copy on a cluster it is the commit that all copies have; raises NotHereYet where that
        is not settled yet.
        """
        models = self._models
        if models is None or models.call_origin is None or not isinstance(name, str):
            return find_adapter(name, self._root)
        model_id, _, revision = name.partition("@")
        commit = models.chosen(model_id, revision or None)
        if commit is None:
            raise NotHereYet(name, lambda: self._bring(models, model_id, revision or None))
        return find_adapter(f"{model_id}@{commit}", self._root)

    def _bring(self, models: ModelFinder, model_id: str, revision: str | None) -> None:
        with self._bringing:
            if models.chosen(model_id, revision) is None:
                models.get(model_id, revision)

    def during(
        self, options: Iterable[Mapping[str, Any]], start: Callable[[], Future[Any]]
    ) -> Future[Any]:
        """Return what ``start`` returns; the adapters in its ``options`` are in use until then."""
        paths = {adapter.path for each in options if (adapter := each.get("lora")) is not None}
        if not paths:
            return start()
        with self._lock:
            self._calls.update(paths)
        try:
            future = start()
        except BaseException:
            self._release(paths)
            raise
        future.add_done_callback(lambda _: self._release(paths))
        return future

    def is_in_use(self, path: Path) -> bool:
        """Whether a call that is not done uses the adapter in this folder."""
        return path in self._calls

    def _release(self, paths: set[Path]) -> None:
        with self._lock:
            self._calls -= Counter(paths)  # which leaves out what is 0
