"""What a model is said to take: weights, one step, a sequence's KV cache."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fit_models import write_headers

from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.planning.memory_estimate import (
    MemoryEstimate,
    estimate_memory,
)
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model

LLAMA = {  # the shape of Llama 3 8B
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
}
LLAMA_KV_PER_TOKEN = 131_072  # 2 x 32 layers x 8 heads x 128 x 2 bytes, as its users know it


def estimate(
    folder: Path,
    config: Mapping[str, Any] = LLAMA,
    tensors: Mapping[str, tuple[str, list[int], int]] | None = None,
    *,
    role: Any = "generate",
    device: Any = "gpu",
    **arguments: Any,
) -> MemoryEstimate:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if tensors is None:
        tensors = {"model.norm.weight": ("BF16", [4096], 8192)}
    write_headers(folder / "model.safetensors", tensors)
    spec = EngineSpec(model_id="test/m", path=folder, role=role, arguments=arguments)
    return estimate_memory(spec, device)


def token_bytes(found: MemoryEstimate) -> int:
    assert found.cache is not None
    return found.cache.token_bytes


def sequence_bytes(found: MemoryEstimate) -> int:
    """KV cache of one longest sequence."""
    assert found.cache is not None
    assert found.max_model_len is not None
    return found.cache.bytes_for(found.max_model_len)


def test_a_real_folder_is_read_in_full(tmp_path: Path) -> None:
    write_tiny_model(tmp_path, hidden_size=64, layers=2, heads=2, vocab_size=512, context=512)
    found = estimate_memory(EngineSpec(model_id="t/t", path=tmp_path), "cpu")
    header = 8 + int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    assert found.weight_bytes == (tmp_path / "model.safetensors").stat().st_size - header
    assert token_bytes(found) == 2 * 2 * 2 * 64  # keys and values, 16 bits, layers, heads
    assert sequence_bytes(found) == 512 * 512
    assert found.kv_bytes == (512 + 128) * 512  # and a block of 128 tokens that vLLM keeps
    assert found.total_bytes == found.weight_bytes + found.overhead_bytes + (512 + 128) * 512
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_sequence_of_llama_8b(tmp_path: Path) -> None:
    found = estimate(tmp_path)
    assert token_bytes(found) == LLAMA_KV_PER_TOKEN
    assert sequence_bytes(found) == 1 << 30
    assert (
        sequence_bytes(estimate(tmp_path, max_model_len=1000)) == 1008 * LLAMA_KV_PER_TOKEN
    )  # blocks
    assert estimate(tmp_path, max_model_len=-1).kv_bytes is None  # whatever fits
    assert sequence_bytes(estimate(tmp_path, kv_cache_dtype="fp8")) == 1 << 29
    assert sequence_bytes(estimate(tmp_path, dtype="float32")) == 2 << 30
    assert sequence_bytes(estimate(tmp_path, tensor_parallel_size=4)) == 1 << 28
    assert (
        sequence_bytes(estimate(tmp_path, tensor_parallel_size=16)) == 1 << 27
    )  # a head at the least
    assert sequence_bytes(estimate(tmp_path, pipeline_parallel_size=2)) == 1 << 29


def test_weights_count_in_the_dtype_they_are_loaded_in(tmp_path: Path) -> None:
    matrix = {"a.weight": ("F32", [100, 100], 40_000)}
    stored_wide = {**LLAMA, "dtype": "float32"}
    assert estimate(tmp_path, tensors=matrix).weight_bytes == 20_000
    assert estimate(tmp_path, stored_wide, matrix).weight_bytes == 20_000  # vLLM takes 16 bits
    assert estimate(tmp_path, tensors=matrix, dtype="float32").weight_bytes == 40_000
    assert estimate(tmp_path, tensors=matrix, dtype="half").dtype == "half"
    assert estimate(tmp_path, tensors=matrix, tensor_parallel_size=2).weight_bytes == 10_000
    assert estimate(tmp_path, tensors=matrix, quantization="fp8").weight_bytes == 10_000
    assert estimate(tmp_path, tensors=matrix, quantization="bitsandbytes").weight_bytes == 5_000
    assert estimate(tmp_path, tensors=matrix, cpu_offload_gb=1).weight_bytes == 0


def test_the_dtype_of_a_config_without_one_is_that_of_the_weights(tmp_path: Path) -> None:
    config = {key: value for key, value in LLAMA.items() if key != "dtype"}
    assert estimate(tmp_path, config).dtype == "bfloat16"
    half = {"a.weight": ("F16", [10, 10], 200)}
    assert estimate(tmp_path, config, half).dtype == "float16"
    assert estimate(tmp_path, {**config, "torch_dtype": "float16"}).dtype == "float16"


def test_quantised_weights_stay_as_they_are(tmp_path: Path) -> None:
    packed = {
        "a.qweight": ("I32", [100, 10], 4_000),
        "a.weight": ("F8_E4M3", [100, 100], 10_000),
        "a.bias": ("F16", [100], 200),
    }
    assert estimate(tmp_path, tensors=packed, dtype="float32").weight_bytes == 14_400


def test_tied_and_repeated_weights_count_once(tmp_path: Path) -> None:
    tensors = {
        "model.embed_tokens.weight": ("BF16", [10, 10], 200),
        "lm_head.weight": ("BF16", [10, 10], 200),
    }
    write_headers(tmp_path / "consolidated.safetensors", tensors)
    assert estimate(tmp_path, tensors=tensors).weight_bytes == 400
    tied = {**LLAMA, "tie_word_embeddings": True}
    assert estimate(tmp_path, tied, tensors).weight_bytes == 200


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    estimate(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "old.safetensors")  # not in the index
    for number in (1, 2):
        tensors = {f"a{number}": ("BF16", [10], 20)}
        write_headers(tmp_path / f"model-{number}.safetensors", tensors)
    index = {"weight_map": {f"a{number}": f"model-{number}.safetensors" for number in (1, 2)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = estimate_memory(EngineSpec(model_id="t/t", path=tmp_path), "gpu")
    assert found.weight_bytes == 40


def test_pickled_weights_count_as_their_files_do(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 1000)
    found = estimate_memory(EngineSpec(model_id="t/t", path=tmp_path), "gpu")
    assert found.weight_bytes == 1000


@pytest.mark.parametrize(
    "differs",
    [
        {"kv_lora_rank": 512},
        {"layer_types": ["full_attention", "linear_attention"]},
        {"hybrid_override_pattern": "M-M*"},
        {"is_encoder_decoder": True},
        {"num_hidden_layers": None},
        {"num_hidden_layers": "many"},
    ],
)
def test_an_unknown_kv_cache_is_said_to_be_unknown(tmp_path: Path, differs: dict[str, Any]) -> None:
    found = estimate(tmp_path, {**LLAMA, **differs})
    assert found.cache is None
    assert found.kv_bytes is None
    assert found.total_bytes == found.weight_bytes + found.overhead_bytes


def test_more_that_leaves_the_kv_cache_unknown(tmp_path: Path) -> None:
    assert estimate(tmp_path, kv_cache_dtype="nvfp4").kv_bytes is None
    assert estimate(tmp_path, {"model_type": "mamba"}).kv_bytes is None
    fewer = {"model.layers.3.self_attn.k_proj.weight": ("BF16", [10], 20)}  # 1 layer of 32
    assert estimate(tmp_path, tensors=fewer).kv_bytes is None


def test_windows_that_are_off_and_languages_one_level_down(tmp_path: Path) -> None:
    off = {**LLAMA, "sliding_window": 4096, "use_sliding_window": False}
    assert sequence_bytes(estimate(tmp_path, off)) == 1 << 30
    full = {**LLAMA, "layer_types": ["full_attention"] * 32, "sliding_window": None}
    assert sequence_bytes(estimate(tmp_path, full)) == 1 << 30
    nested = {"model_type": "seer", "text_config": LLAMA}
    assert sequence_bytes(estimate(tmp_path, nested)) == 1 << 30


def test_the_longest_sequence_is_the_configs_unless_rotation_stretches_it(tmp_path: Path) -> None:
    llama3 = {**LLAMA, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    assert estimate(tmp_path, llama3).max_model_len == 8192
    default = {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    assert estimate(tmp_path, default).max_model_len == 8192
    yarn = {**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
    assert estimate(tmp_path, yarn).max_model_len == 8192  # it is the stretched length already
    linear = {**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    assert estimate(tmp_path, linear).max_model_len == 32768
    assert estimate(tmp_path, yarn, max_model_len=2048).max_model_len == 2048


def test_a_sentence_model_limits_its_sequences_itself(tmp_path: Path) -> None:
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    assert estimate(tmp_path, role="embed").max_model_len == 256
    assert estimate(tmp_path, role="embed", max_model_len=128).max_model_len == 128
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": false}')
    assert estimate(tmp_path, role="embed").max_model_len == 8192


def test_an_encoder_has_no_kv_cache_and_no_logits(tmp_path: Path) -> None:
    bert = {**LLAMA, "model_type": "bert"}
    embed = estimate(tmp_path, bert, role="embed")
    assert embed.kv_bytes == 0
    assert embed.option == "embedding_engine"
    assert (
        sequence_bytes(estimate(tmp_path, LLAMA, role="embed")) == 1 << 30
    )  # converted for embedding
    logits = 2 * 4 * 256 * 128256  # both copies, float32, sequences, vocabulary
    assert estimate(tmp_path, bert).overhead_bytes - embed.overhead_bytes == logits


@pytest.mark.parametrize(("role", "tables"), [("generate", 2), ("embed", 1)])
def test_a_cpu_holds_tables_of_tokens_twice(tmp_path: Path, role: str, tables: int) -> None:
    small = {**LLAMA, "vocab_size": 28256}
    more = [
        estimate(tmp_path, config, role=role, device="cpu", max_num_seqs=1).overhead_bytes
        for config in (small, LLAMA)
    ]
    logits = 2 * 4 * 100_000 if role == "generate" else 0
    assert more[1] - more[0] == tables * 100_000 * 4096 * 2 + logits


def test_smaller_steps_take_less(tmp_path: Path) -> None:
    usual = estimate(tmp_path)
    half = estimate(tmp_path, max_num_batched_tokens=4096)
    assert usual.overhead_bytes - half.overhead_bytes == 4096 * (5 * 4096 + 3 * 14336) * 2
    fewer = estimate(tmp_path, max_num_seqs=56)
    assert usual.overhead_bytes - fewer.overhead_bytes == 2 * 4 * 200 * 128256
