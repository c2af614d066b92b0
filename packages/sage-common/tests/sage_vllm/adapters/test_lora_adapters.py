"""LoRA adapters: found with their ranks and bases, and in use as long as calls are."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.adapters.lora_adapter import LoraAdapters, find_adapter
from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.pool.model_finder import ModelFinder
from sage.common.components.sage_vllm.replicas.model_origin import ModelOrigin
from sage.common.components.sage_vllm.testing.echo_engine import write_echo_model
from sage.common.core.background import in_background
from sage.common.model_registry.vllm_registry import RevisionNotFoundError, import_model
from sage.common.service.replication import NotHereYet


def register(tmp_path: Path, name: str = "test/adapter", **config: Any) -> Path:
    folder = write_echo_model(tmp_path / str(len(list(tmp_path.iterdir()))))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return import_model(name, folder, root=tmp_path / "registry").path


def test_an_adapter_is_told_with_its_rank_and_its_base(tmp_path: Path) -> None:
    base = {"base_model_name_or_path": "org/base"}
    path = register(tmp_path, r=4, rank_pattern={"q_proj": 48, "o_proj": 2}, **base)
    adapter = find_adapter("test/adapter", tmp_path / "registry")
    assert (adapter.name, adapter.commit, adapter.path) == ("test/adapter", path.name, path)
    assert (adapter.rank, adapter.base) == (48, "org/base")


@pytest.mark.parametrize("base", [{}, {"base_model_name_or_path": None}])
def test_an_adapter_may_say_nothing_of_its_base(tmp_path: Path, base: dict[str, Any]) -> None:
    register(tmp_path, r=4, rank_pattern=None, **base)
    adapter = find_adapter("test/adapter", tmp_path / "registry")
    assert (adapter.rank, adapter.base) == (4, None)


def test_a_revision_of_an_adapter_can_be_named(tmp_path: Path) -> None:
    first, second = (register(tmp_path, r=rank) for rank in (4, 8))
    root = tmp_path / "registry"
    assert find_adapter("test/adapter", root).path == second
    assert find_adapter(f"test/adapter@{first.name}", root).path == first
    assert find_adapter(f"test/adapter@{first.name[:8]}", root).rank == 4
    with pytest.raises(RevisionNotFoundError, match="v9"):
        find_adapter("test/adapter@v9", root)


@pytest.mark.parametrize("config", [{}, {"r": "x"}, {"r": 4, "rank_pattern": [3]}])
def test_an_adapter_without_a_readable_rank_is_named(tmp_path: Path, config: Any) -> None:
    register(tmp_path, **config)
    with pytest.raises(InvalidOptionError, match=r"adapter_config.json says no rank 'r'"):
        find_adapter("test/adapter", tmp_path / "registry")


def test_copies_on_a_cluster_take_the_commit_that_a_call_to_all_brought(tmp_path: Path) -> None:
    root = tmp_path / "registry"
    first = register(tmp_path, r=4)
    models = ModelFinder(VLLMServiceConfig(model_id="org/base", model_root=root))
    origin = ModelOrigin(root)
    models.call_origin = lambda method, *args: in_background(getattr(origin, method), *args)
    adapters = LoraAdapters(root, models)
    with pytest.raises(NotHereYet) as missing:
        adapters.find("test/adapter")
    missing.value.bring()
    assert adapters.find("test/adapter").path == first
    second = register(tmp_path, r=8)
    assert adapters.find("test/adapter").path == first
    models.choose("test/adapter", None, second.name)
    assert adapters.find("test/adapter").path == second


def test_an_adapter_is_in_use_until_all_calls_with_it_are_done(tmp_path: Path) -> None:
    path = register(tmp_path, r=4)
    adapters = LoraAdapters(tmp_path / "registry")
    options = {"lora": adapters.find("test/adapter")}
    assert not adapters.is_in_use(path)
    done, cancelled = Future[Any](), Future[Any]()
    assert adapters.during([options, options, {}], lambda: done) is done
    adapters.during([options], lambda: cancelled)
    assert adapters.is_in_use(path)
    cancelled.cancel()
    assert adapters.is_in_use(path)
    done.set_result(None)
    assert not adapters.is_in_use(path)


def test_a_call_that_does_not_start_uses_no_adapter(tmp_path: Path) -> None:
    path = register(tmp_path, r=4)
    adapters = LoraAdapters(tmp_path / "registry")

    def start() -> Future[Any]:
        assert adapters.is_in_use(path)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        adapters.during([{"lora": adapters.find("test/adapter")}], start)
    assert not adapters.is_in_use(path)
