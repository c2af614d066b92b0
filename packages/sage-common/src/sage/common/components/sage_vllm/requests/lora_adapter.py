"""The LoRA adapters that calls name, found in the registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.engine_contract import LoraAdapter
from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.model_registry import vllm_registry

_LISTED = "'sage llm model show' lists the adapters with the type lora"


def find_adapter(name: Any, root: Path | None) -> LoraAdapter:
    """Return an adapter of the registry by its id.

    Raises ModelNotFoundError, or InvalidOptionError for what is no adapter.
    """
    if not isinstance(name, str):
        problem = f"lora must be the id of an adapter in the registry, not {name!r}"
        raise InvalidOptionError("lora", name, problem, hint=_LISTED)
    path = vllm_registry.get_model_path(name, root=root)
    config = path / "adapter_config.json"
    try:
        rank = json.loads(config.read_text(encoding="utf-8"))["r"]
    except FileNotFoundError:
        problem = f"{name!r} is no LoRA adapter: it has no adapter_config.json"
        raise InvalidOptionError("lora", name, problem, hint=_LISTED) from None
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{config} says no rank 'r' of the adapter: {error}"
        hint = "download or import the adapter again"
        raise InvalidOptionError("lora", name, problem, hint=hint) from error
    return LoraAdapter(name=name, path=path, rank=int(rank))


class LoraAdapters:
    """Finds the adapters that calls name, and remembers whose files the engines may read."""

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._named: set[Path] = set()

    def find(self, name: str) -> LoraAdapter:
        """Return an adapter by its id, as find_adapter does."""
        adapter = find_adapter(name, self._root)
        self._named.add(adapter.path)
        return adapter

    def is_in_use(self, path: Path) -> bool:
        """Whether a call has named the adapter in this folder."""
        return path in self._named
