"""What a model is tagged as follows from what vLLM would run it as."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from model_files import safetensors

from sage.common.model_registry import IncompleteModelError, import_model
from sage.common.model_registry.model_traits import _TYPE_BY_ENDING, read_traits

if TYPE_CHECKING:
    from pathlib import Path


def type_of(folder: Path, architecture: str) -> object:
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    return read_traits(folder)["type"]


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("GPT2LMHeadModel", "text"),
        ("ChatGLMModel", "text"),
        ("BertLMHeadModel", "text"),
        ("Qwen3ForCausalLM", "text"),
        ("SomethingOfTomorrow", "text"),
        ("GPT2Model", "embedding"),  # what vLLM makes of one that was saved without its head
        ("BertModel", "embedding"),
        ("RobertaForMaskedLM", "embedding"),
        ("BertForSequenceClassification", "classification"),
        ("Qwen2ForRewardModel", "reward"),
    ],
)
def test_the_type_follows_from_the_class(tmp_path: Path, architecture: str, expected: str) -> None:
    assert type_of(tmp_path, architecture) == expected


def test_modules_make_an_embedding_model_of_a_language_model(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    assert type_of(tmp_path, "Qwen3ForCausalLM") == "embedding"
    assert type_of(tmp_path, "BertForSequenceClassification") == "classification"


@pytest.mark.parametrize("config", [None, {"architectures": ["LlamaForCausalLM"]}])
def test_an_adapter_is_none_of_them(tmp_path: Path, config: object) -> None:
    source = tmp_path / "adapter"
    source.mkdir()
    (source / "adapter_config.json").write_text(json.dumps({"r": 8}))
    (source / "adapter_model.safetensors").write_bytes(safetensors(8))
    if config is not None:
        (source / "config.json").write_text(json.dumps(config))
    root = tmp_path / "root"
    assert import_model("me/adapter", source, root=root).tags["type"] == "lora"
    (source / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (source / "model.safetensors").write_bytes(safetensors(8))
    assert import_model("me/both", source, root=root).tags["type"] == "text"


@pytest.mark.parametrize("names", ["architectures", "model_type"])
def test_a_model_without_weights_is_refused(tmp_path: Path, names: str) -> None:
    source = tmp_path / "empty"
    source.mkdir()
    value = ["LlamaForCausalLM"] if names == "architectures" else "llama"
    (source / "config.json").write_text(json.dumps({names: value}))
    with pytest.raises(IncompleteModelError, match=r"lacks model\.safetensors"):
        import_model("me/empty", source, root=tmp_path / "root")


def test_a_doubtful_one_is_what_the_user_says(tmp_path: Path) -> None:
    source = tmp_path / "gpt2"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"architectures": ["GPT2Model"]}))
    (source / "model.safetensors").write_bytes(safetensors(8))
    root = tmp_path / "root"
    assert import_model("me/gpt2", source, root=root).tags["type"] == "embedding"
    assert import_model("me/gpt2", source, tags={"type": "text"}, root=root).tags["type"] == "text"


def test_the_table_is_what_this_vllm_does(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    from vllm.config.model import _SUFFIX_TO_DEFAULTS
    from vllm.model_executor.models import registry

    ours = {"generate": {"text"}, "embed": {"embedding", "reward"}, "classify": {"classification"}}
    for ending, (runner, convert) in _SUFFIX_TO_DEFAULTS:
        does = runner if runner == "generate" else convert
        assert _TYPE_BY_ENDING[ending] in ours[does], ending
    tables = {
        "text": registry._TEXT_GENERATION_MODELS,
        "embedding": registry._EMBEDDING_MODELS,
        "reward": registry._REWARD_MODELS,
    }
    generates = {*registry._TEXT_GENERATION_MODELS, *registry._MULTIMODAL_MODELS}
    for kind, table in tables.items():
        for architecture in table:
            if kind == "text" or architecture not in generates:  # else it does both
                assert type_of(tmp_path, architecture) == kind, architecture
