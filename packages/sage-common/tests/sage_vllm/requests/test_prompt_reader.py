"""PromptReader: prompts with all options that hold for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.adapters.lora_adapter import LoraAdapters
from sage.common.components.sage_vllm.cache.result_caches import ResultCaches
from sage.common.components.sage_vllm.requests.media.media_policy import MediaPolicy
from sage.common.components.sage_vllm.requests.prompt_reader import PromptReader
from sage.common.components.sage_vllm.testing.echo_engine import write_echo_model
from sage.common.model_registry.vllm_registry import ModelNotFoundError, import_model


def reader(root: Path | None = None, **defaults: Any) -> PromptReader:
    return PromptReader(
        lambda _model: defaults, LoraAdapters(root), ResultCaches(None), MediaPolicy()
    )


def test_a_prompts_own_options_override_the_calls_and_those_the_services() -> None:
    prompts = [{"prompt": "a", "options": {"seed": 1}}, "b"]
    first, second = reader(seed=3, top_k=5, n=7).read(prompts, {"seed": 2, "top_k": 4})
    assert (first.prompt, first.options) == ("a", {"seed": 1, "top_k": 4, "n": 7})
    assert (second.prompt, second.options) == ("b", {"seed": 2, "top_k": 4, "n": 7})


def test_prompts_without_options_of_their_own_share_the_calls() -> None:
    items = reader(seed=3).read(["a", "b", "c"], {"top_k": 4})
    assert items[0].options == {"seed": 3, "top_k": 4}
    assert all(item.options is items[0].options for item in items)


def test_options_that_exclude_each_other_are_found_wherever_they_come_from() -> None:
    prompt = {"prompt": "a", "options": {"choice": ["x"]}}
    with pytest.raises(ValueError, match="choice and regex"):
        reader().read(prompt, {"regex": "x"})


def test_an_adapter_is_found(tmp_path: Path) -> None:
    adapter = write_echo_model(tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 4}))
    root = tmp_path / "registry"
    path = import_model("test/adapter", adapter, root=root).path
    reading = reader(root)
    items = reading.read(["a", "b"], {"lora": "test/adapter"})
    assert {(item.options["lora"].rank, item.options["lora"].path) for item in items} == {(4, path)}
    with pytest.raises(ModelNotFoundError, match="test/other"):
        reading.read("a", {"lora": "test/other"})


def test_the_defaults_are_those_of_the_model_that_is_named() -> None:
    defaults = {None: {"seed": 1}, "judge": {"temperature": 0}}
    reading = PromptReader(
        defaults.__getitem__, LoraAdapters(None), ResultCaches(None), MediaPolicy()
    )
    prompts = ["a", {"prompt": "b", "options": {"model": "judge"}}]
    first, second = reading.read(prompts, {"top_k": 4})
    assert (first.model, first.options) == (None, {"seed": 1, "top_k": 4})
    assert (second.model, second.options) == ("judge", {"temperature": 0, "top_k": 4})
