"""What is planned for a model with a head, and which models have none; nothing is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from head_models import write_bert, write_decoder

from sage.common.components.sage_vllm.engine_contract import EngineSpec, Role
from sage.common.components.sage_vllm.errors import WrongModelTypeError
from sage.common.components.sage_vllm.planning.device import Device
from sage.common.components.sage_vllm.planning.engine_plan import plan_engine
from sage.common.components.sage_vllm.planning.gpu_shares import gpu_shares
from sage.common.components.sage_vllm.planning.model_files import BrokenModelError

GB = 1 << 30
CPU = Device(kind="cpu", free=16 * GB, total=24 * GB, dtype="float32")


def spec(folder: Path, role: str = "score", **arguments: Any) -> EngineSpec:
    return EngineSpec(model_id="test/head", path=folder, role=Role(role), arguments=arguments)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"), 3)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("decoder"), "Qwen3", head=False)


def test_an_encoder_has_no_cache_and_a_decoder_has_one(bert: Path, decoder: Path) -> None:
    encoder = plan_engine(spec(bert), CPU)
    assert encoder.estimate.kv_bytes == 0
    assert encoder.estimate.max_model_len == 128
    assert encoder.fit.problem is None
    converted = {
        "architectures": ["Qwen3ForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
    }
    reader = plan_engine(spec(decoder, hf_overrides=converted), CPU)
    assert (reader.estimate.kv_bytes or 0) > 0
    # Logits are for models that generate.
    writer = plan_engine(spec(decoder, "generate"), CPU)
    assert reader.estimate.overhead_bytes < writer.estimate.overhead_bytes


def test_three_engines_share_a_gpu(bert: Path, decoder: Path) -> None:
    text = spec(decoder, "generate")
    shares = gpu_shares(text, spec(decoder, "embed"), spec(bert), free=20 * GB, total=20 * GB)
    assert sum(shares) == pytest.approx(0.92)
    assert min(shares) > 0


@pytest.mark.parametrize(
    ("name", "role", "says"),
    [
        ("LlamaForCausalLM", "score", r"is a text model \(LlamaForCausalLM\), and cannot score;"),
        ("BertModel", "score", r"is an embedding model \(BertModel\), and cannot score"),
        ("BertForTokenClassification", "score", "labels each token .* and cannot score"),
        ("Qwen2ForProcessRewardModel", "score", "rates each step of an answer .* cannot score"),
        ("BertForSequenceClassification", "generate", "classifies .* cannot generate.*scoring_m"),
        ("Qwen2ForRewardModel", "generate", "is a reward model .* and cannot generate"),
        ("RobertaForSequenceClassification", "embed", "classifies .* and cannot embed"),
    ],
)
def test_a_model_says_what_it_is(
    bert: Path, tmp_path: Path, name: str, role: str, says: str
) -> None:
    config = json.loads((bert / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    with pytest.raises(WrongModelTypeError, match=says) as caught:
        plan_engine(spec(tmp_path, role), CPU)
    assert caught.value.name == Role(role).model_option


def test_the_entry_of_a_model_without_a_head_is_named(decoder: Path) -> None:
    named = EngineSpec(
        model_id="test/head", path=decoder, role=Role.SCORE, option="models.judge.engine"
    )
    with pytest.raises(WrongModelTypeError, match="labels=") as caught:
        plan_engine(named, CPU)
    assert caught.value.name == "models.judge.model_id"


def test_a_head_whose_weights_are_missing_is_noticed(decoder: Path, tmp_path: Path) -> None:
    config = json.loads((decoder / "config.json").read_text())
    config["architectures"] = ["Qwen3ForSequenceClassification"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(decoder / "model.safetensors")
    with pytest.raises(BrokenModelError, match="lacks the weights of score"):
        plan_engine(spec(tmp_path), CPU)
