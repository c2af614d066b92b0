"""The prompts that an embedding model's folder names, and what stops one whose are wrong."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm import UnsupportedModelError, VLLMService
from sage.common.components.sage_vllm.planning.model_files import BrokenModelError
from sage.common.components.sage_vllm.planning.sentence_pooling import embedding_arguments
from sage.common.components.sage_vllm.planning.text_prompts import TextPrompts, read_text_prompts
from sage.common.components.sage_vllm.testing import EchoEngine, write_echo_model
from sage.common.model_registry import import_model


def write_prompts(folder: Path, **config: Any) -> Path:
    write_echo_model(folder)
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    return folder


def test_prompts_are_read_where_there_are_any(tmp_path: Path) -> None:
    read = partial(read_text_prompts, "test/m")
    assert read(tmp_path) == TextPrompts()
    plain = write_prompts(tmp_path / "plain", similarity_fn_name="cosine", prompts=None)
    assert read(plain) == TextPrompts()
    both = {"query": "q: ", "document": ""}
    named = write_prompts(tmp_path / "named", prompts=both, default_prompt_name="query")
    assert read(named) == TextPrompts(by_name=both, default="query")
    empty = write_prompts(tmp_path / "empty", prompts={"s": None}, default_prompt_name="query")
    assert read(empty) == TextPrompts(by_name={"s": "", "query": ""}, default="query")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"prompts": {"query": "q: "}, "default_prompt_name": "passage"}, "'passage' as default"),
        ({"default_prompt_name": "passage"}, "'passage' as default"),
        ({"prompts": ["q: "]}, "no 'prompts' by name"),
        ({"prompts": {"query": 1}}, "no 'prompts' by name"),
    ],
)
def test_prompts_that_are_none_are_refused(tmp_path: Path, config: Any, says: str) -> None:
    with pytest.raises(BrokenModelError, match=says):
        read_text_prompts("test/m", write_prompts(tmp_path / "model", **config))


@pytest.mark.parametrize("prompts", [{"query": "q: "}, {"query": ""}])
def test_a_model_that_pools_without_its_prompt_is_refused(tmp_path: Path, prompts: Any) -> None:
    folder = write_prompts(tmp_path / "model", prompts=prompts)
    modules = [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"pooling_mode_mean_tokens": True, "include_prompt": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if not prompts["query"]:
        embedding_arguments("test/m", folder, {})
        return
    with pytest.raises(UnsupportedModelError, match="leaves the tokens of its prompts out"):
        embedding_arguments("test/m", folder, {})


def test_the_double_has_the_prompts_of_its_model(tmp_path: Path) -> None:
    folder = write_prompts(tmp_path / "model", prompts={"query": "one two "})
    import_model("test/m", folder, root=tmp_path / "root")
    config = {"embedding_model_id": "test/m", "model_root": tmp_path / "root"}
    with VLLMService(config, engine_factory=EchoEngine) as service:
        plain, query = service.embed("three"), service.embed("three", prompt_name="query")
    assert (plain["tokens_used"]["prompt"], query["tokens_used"]["prompt"]) == (1, 3)
    assert query["vectors"] != plain["vectors"]
