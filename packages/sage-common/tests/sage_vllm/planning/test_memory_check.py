"""Whether a model fits, and what is said where it does not."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from sage.common.components.sage_vllm.engine_contract import EngineInfo, EngineSpec, Role
from sage.common.components.sage_vllm.errors import EngineError, InvalidOptionError
from sage.common.components.sage_vllm.planning.gpu_shares import gpu_shares
from sage.common.components.sage_vllm.planning.kv_cache_layout import KVCache
from sage.common.components.sage_vllm.planning.memory_check import InsufficientMemoryError, fit_of
from sage.common.components.sage_vllm.planning.memory_estimate import (
    MemoryEstimate,
    estimate_memory,
)
from sage.common.components.sage_vllm.pool.engine_switch import fits_instead_of
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model

GB = 10**9
BLOCK = 16 * 250_000
"""Bytes of a block of 16 tokens: vLLM keeps one to itself, beside those of the sequence."""
ESTIMATE = MemoryEstimate(  # 6 GB, and 4 GB for a longest sequence
    model_id="test/m",
    role=Role.GENERATE,
    dtype="bfloat16",
    weight_bytes=5 * GB,
    overhead_bytes=1 * GB,
    cache=KVCache(block_size=16, block_bytes=BLOCK),
    model_max_len=16_000,
    max_model_len=16_000,
    batch_size=256,
    step_tokens=8192,
)


def refusal(estimate: MemoryEstimate, **memory: float) -> InsufficientMemoryError:
    fit = fit_of(estimate, **memory)  # type: ignore[arg-type]  # free and total are ints here
    assert fit.problem is not None
    error = InsufficientMemoryError(estimate.model_id, fit, estimate)
    assert isinstance(error, MemoryError)
    assert isinstance(error, EngineError)
    assert error.estimate is estimate
    return error


def fits(estimate: MemoryEstimate, **memory: float) -> None:
    fit = fit_of(estimate, **memory)  # type: ignore[arg-type]  # free and total are ints here
    assert (fit.problem, fit.hint, fit.settings) == (None, None, ())


def test_what_fits_passes() -> None:
    fits(ESTIMATE, free=10 * GB + BLOCK, total=20 * GB)
    refusal(ESTIMATE, free=10 * GB + BLOCK - 1, total=20 * GB)
    fits(ESTIMATE, free=18 * GB, total=20 * GB, share=0.51)
    fits(replace(ESTIMATE, cache=None), free=6 * GB, total=20 * GB)
    fits(replace(ESTIMATE, max_model_len=None), free=6 * GB, total=20 * GB)
    fits(replace(ESTIMATE, kv_cache_bytes=4 * GB + BLOCK), free=10 * GB + BLOCK, total=20 * GB)


def test_a_sequence_that_is_too_long_is_told_the_longest_that_fits() -> None:
    error = refusal(ESTIMATE, free=8 * GB + BLOCK + 3_999_999, total=20 * GB)
    assert error.largest_max_model_len == 8_000  # 2 GB, and no whole block more
    assert error.available == 8 * GB + BLOCK + 3_999_999
    for part in ("5.0 GB", "1.0 GB", "4.0 GB", "16,000 tokens", "8.0 GB of 20.0 GB are free"):
        assert part in str(error)
    assert "engine={'max_model_len': 8000}" in str(error)
    fits(replace(ESTIMATE, max_model_len=8_000), free=8 * GB + BLOCK, total=20 * GB)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.estimate, copy.largest_max_model_len) == (str(error), ESTIMATE, 8_000)


def test_an_embedding_engines_option_is_named() -> None:
    error = refusal(replace(ESTIMATE, role=Role.EMBED), free=8 * GB + BLOCK, total=20 * GB)
    assert "embedding_engine={'max_model_len': 8000}" in str(error)


def test_weights_that_do_not_fit_are_said_not_to() -> None:
    error = refusal(ESTIMATE, free=5 * GB, total=20 * GB)
    assert error.largest_max_model_len is None
    assert "that alone does not fit: choose a smaller" in str(error)
    assert "'tensor_parallel_size'" in str(error)


def test_no_length_is_proposed_where_not_even_a_block_fits() -> None:
    error = refusal(ESTIMATE, free=6 * GB, total=20 * GB)
    assert error.largest_max_model_len is None
    assert "choose a smaller model" in str(error)


def test_a_share_that_is_not_free() -> None:
    error = refusal(ESTIMATE, free=11 * GB, total=20 * GB, share=0.92)
    assert "share of 0.92 of the device's 20.0 GB, and only 11.0 GB are free" in str(error)
    assert "{'gpu_memory_utilization': 0.55} or less" in str(error)
    fits(ESTIMATE, free=11 * GB, total=20 * GB, share=0.55)


def test_a_share_that_is_too_small() -> None:
    error = refusal(ESTIMATE, free=19 * GB, total=20 * GB, share=0.25)
    assert "it may use 5.0 GB (gpu_memory_utilization 0.25)" in str(error)
    assert "set engine={'gpu_memory_utilization': 0.51} or more" in str(error)
    fits(ESTIMATE, free=19 * GB, total=20 * GB, share=0.51)
    error = refusal(ESTIMATE, free=19 * GB, total=20 * GB, share=0.4)
    assert error.largest_max_model_len == 8_000 - 16


def test_a_kv_cache_of_a_set_size() -> None:
    too_large = replace(ESTIMATE, kv_cache_bytes=5 * GB)
    error = refusal(too_large, free=10 * GB, total=20 * GB)
    assert f"set engine={{'kv_cache_memory_bytes': {4 * GB}}} or less" in str(error)
    too_small = replace(ESTIMATE, kv_cache_bytes=1 * GB)
    error = refusal(too_small, free=10 * GB + BLOCK, total=20 * GB)
    assert error.largest_max_model_len == 4_000 - 16
    assert f"or engine={{'kv_cache_memory_bytes': {4 * GB + BLOCK}}}" in str(error)
    assert [(setting.option, setting.value) for setting in error.settings] == [
        ("engine.max_model_len", 4_000 - 16),
        ("engine.kv_cache_memory_bytes", 4 * GB + BLOCK),
    ]
    assert "or engine=" not in str(refusal(too_small, free=8 * GB, total=20 * GB))


# -- two engines on one GPU ------------------------------------------------------------------------


def specs(
    folder: Path, text: float | None = None, embedding: float | None = None
) -> tuple[EngineSpec, EngineSpec]:
    write_tiny_model(folder)
    shares = {"generate": text, "embed": embedding}
    made = [
        EngineSpec(
            model_id=f"test/{role}",
            path=folder,
            role=role,  # type: ignore[arg-type]  # one of the two
            arguments={} if share is None else {"gpu_memory_utilization": share},
        )
        for role, share in shares.items()
    ]
    return made[0], made[1]


def test_the_embedding_engine_gets_what_it_needs_and_the_other_the_rest(tmp_path: Path) -> None:
    total = 20 * GB
    text, embedding = specs(tmp_path)
    shares = gpu_shares(text, embedding, free=total, total=total)
    estimate = estimate_memory(embedding, "gpu")
    assert estimate.cache is not None
    cache = estimate.cache.pool_bytes(estimate.step_tokens)
    needed = estimate.weight_bytes + estimate.overhead_bytes + cache
    assert needed <= shares[1] * total <= needed + total / 100
    assert sum(shares) == pytest.approx(0.92)
    busy = gpu_shares(text, embedding, free=total // 2, total=total)
    assert busy[1] == shares[1]
    assert sum(busy) == pytest.approx(0.5)


def test_an_unknown_kv_cache_gets_a_tenth(tmp_path: Path) -> None:
    text, embedding = specs(tmp_path)
    before = gpu_shares(text, embedding, free=100 * GB, total=100 * GB)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("{", '{"kv_lora_rank": 64,', 1))
    after = gpu_shares(text, embedding, free=100 * GB, total=100 * GB)
    assert after[1] == pytest.approx(before[1] + 0.1, abs=0.011)


def test_what_the_user_sets_is_kept(tmp_path: Path) -> None:
    memory = {"free": 20 * GB, "total": 20 * GB}
    assert gpu_shares(*specs(tmp_path, 0.7, 0.3), **memory) == (0.7, 0.3)
    assert gpu_shares(*specs(tmp_path, 0.5), **memory)[0] == 0.5
    assert gpu_shares(*specs(tmp_path, None, 0.3), **memory) == pytest.approx((0.62, 0.3))


def test_shares_that_exceed_the_device_are_refused(tmp_path: Path) -> None:
    memory = {"free": 20 * GB, "total": 20 * GB}
    says = r"engine=.*0\.8.*embedding_engine=.*0\.3.* exceed 1"
    with pytest.raises(InvalidOptionError, match=says) as caught:
        gpu_shares(*specs(tmp_path, 0.8, 0.3), **memory)
    assert (caught.value.option, caught.value.value) == ("engine.gpu_memory_utilization", 0.7)
    assert caught.value.hint == "lower one of them, such as engine={'gpu_memory_utilization': 0.7}"
    with pytest.raises(InvalidOptionError, match=r"\(what it needs\) exceed 1"):
        gpu_shares(*specs(tmp_path, 1.0), **memory)
    with pytest.raises(InvalidOptionError, match="not 70") as caught:
        gpu_shares(*specs(tmp_path, 70), **memory)
    assert (caught.value.name, caught.value.given) == ("gpu_memory_utilization", 70)
    with pytest.raises(InsufficientMemoryError, match=r"'test/embed' takes 0\.95"):
        gpu_shares(*specs(tmp_path, None, 0.95), **memory)


def test_whether_it_would_fit_in_the_place_of_another_is_told_before_that_is_stopped() -> None:
    old = EngineInfo(
        model_id="test/old",
        mode="process",
        dtype="bfloat16",
        max_model_len=1000,
        max_batch_size=1,
        start_seconds=1.0,
        memory_bytes=16 * GB,
    )
    # On a GPU: a share of 0.8 is free as soon as the old one's is given back.
    assert fits_instead_of(old, refusal(ESTIMATE, free=3 * GB, total=20 * GB, share=0.8))
    # Something else has some of the memory, so the share will not be free.
    assert not fits_instead_of(old, refusal(ESTIMATE, free=GB // 2, total=20 * GB, share=0.9))
    # It is too large for its share, whatever is free.
    large = replace(ESTIMATE, weight_bytes=17 * GB)
    assert not fits_instead_of(old, refusal(large, free=3 * GB, total=20 * GB, share=0.8))
    # On a CPU an engine takes what it needs.
    assert fits_instead_of(old, refusal(ESTIMATE, free=3 * GB, total=20 * GB))
    assert not fits_instead_of(old, refusal(large, free=3 * GB, total=20 * GB))
