"""Weights that vLLM would not miss are missed before it loads a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.planning.device import Device
from sage.common.components.sage_vllm.planning.engine_plan import plan_engine
from sage.common.components.sage_vllm.planning.missing_tensors import missing_tensors
from sage.common.components.sage_vllm.planning.model_files import BrokenModelError
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
HEAD = {"tie_word_embeddings": False}
TIED = {"tie_word_embeddings": True}


def layers(*modules: tuple[str, ...], parent: str = "self_attn") -> list[str]:
    """Return the names of tensors of some layers, by the modules of each."""
    return [
        f"model.layers.{number}.{parent}.{module}.weight"
        for number, of_layer in enumerate(modules)
        for module in of_layer
    ]


@pytest.mark.parametrize("part", ATTENTION[:3])
@pytest.mark.parametrize("suffix", ["weight", "qweight"])
def test_a_part_of_a_joined_weight(part: str, suffix: str) -> None:
    less = tuple(each for each in ATTENTION if each != part)
    names = [name.replace("weight", suffix) for name in layers(ATTENTION, less, ATTENTION)]
    expected = [f"model.layers.1.self_attn.{part}"]
    assert missing_tensors({}, names, generates=True) == expected


def test_a_part_of_an_encoders_attention() -> None:
    parent = "attention.self"
    names = layers(("query", "key", "value"), ("query", "value"), parent=parent)
    expected = ["model.layers.1.attention.self.key"]
    assert missing_tensors({}, names, generates=False) == expected


def test_an_expert_between_others() -> None:
    parents = [f"mlp.experts.{number}" for number in (0, 1, 3)]
    names = [
        name
        for parent in parents
        for name in layers(("gate_proj", "up_proj", "down_proj"), parent=parent)
    ]
    assert missing_tensors({}, names, generates=True) == ["model.layers.0.mlp.experts.2"]


def test_a_part_of_an_expert() -> None:
    parents = [f"block_sparse_moe.experts.{number}" for number in range(4)]
    names = [name for parent in parents for name in layers(("w1", "w2", "w3"), parent=parent)]
    names.remove("model.layers.0.block_sparse_moe.experts.2.w3.weight")
    expected = ["model.layers.0.block_sparse_moe.experts.2.w3"]
    assert missing_tensors({}, names, generates=True) == expected


@pytest.mark.parametrize(
    ("config", "names"),
    [
        # keys and values of an earlier layer, as in Gemma 3n
        ({}, layers(ATTENTION, ("q_proj", "o_proj"))),
        # values that are the keys, as in Gemma 4
        ({"attention_k_eq_v": True}, layers(ATTENTION, ("q_proj", "k_proj", "o_proj"))),
        # layers of two kinds, as in Kimi Linear and in what begins with a dense layer
        ({}, layers(ATTENTION, ("q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"))),
        (
            {},
            layers(("gate_proj", "up_proj", "down_proj"), ("gate", "shared_expert"), parent="mlp"),
        ),
        # no gates at all, as in Nemotron
        ({}, layers(("up_proj", "down_proj"), ("up_proj", "down_proj"), parent="mlp")),
        (TIED, ["model.embed_tokens.weight", *layers(ATTENTION)]),
        (HEAD, ["model.embed_tokens.weight", "lm_head.weight"]),
        (HEAD, ["transformer.wte.weight", "transformer.output_layer.weight"]),
        ({}, ["model.embed_tokens.weight"]),
    ],
)
def test_what_is_meant_to_be_so(config: Any, names: list[str]) -> None:
    assert missing_tensors(config, names, generates=True) == []


def test_a_head_is_needed_to_generate() -> None:
    names = ["model.embed_tokens.weight"]
    assert missing_tensors(HEAD, names, generates=True) == ["lm_head"]
    assert missing_tensors(HEAD, names, generates=False) == []


@pytest.mark.parametrize("lost", ["lm_head.weight", "model.layers.1.mlp.up_proj.weight"])
def test_a_model_that_lacks_one_is_not_loaded(tmp_path: Path, lost: str) -> None:
    model = write_tiny_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    assert lost in weights
    device = Device(kind="cpu", dtype="bfloat16", free=20 << 30, total=24 << 30)
    spec = EngineSpec(model_id="test/m", path=model, role="generate")
    plan_engine(spec, device).check()
    del weights[lost]
    save_file(weights, model / "model.safetensors")
    with pytest.raises(BrokenModelError, match=f"lacks .*{lost.removesuffix('.weight')}"):
        plan_engine(spec, device).check()
