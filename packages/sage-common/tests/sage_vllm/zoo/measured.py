"""What a model of the zoo does in our service, beside what transformers makes of it."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from zoo_models import CONTEXT, NEW_TOKENS, PROMPTS, words

from sage.common.components.sage_vllm import EngineError, InvalidRequestError, VLLMService
from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.planning.memory_estimate import (
    MemoryEstimate,
    estimate_memory,
)
from sage.common.model_registry import ModelInfo, import_model

if TYPE_CHECKING:
    from pathlib import Path

NEAR_TIE = 0.01  # logits: the order of additions decides between two tokens that are closer
FLOAT32 = {"dtype": "float32", "max_num_seqs": 8, "kv_cache_memory_bytes": 64 << 20}


@dataclass(frozen=True, kw_only=True)
class TextRow:
    """A text model: how many prompts have equal tokens, how many but for a near tie."""

    kind: str
    equal: int
    near_ties: int
    weights: float
    """Estimated bytes of the weights, over those of the parameters that transformers counts."""
    kv_cache: float | None
    """Estimated bytes of a token in a block of the KV cache, over those taken; None where nobody
    estimates. A block is of all layers, or of a group of those that look back equally far."""


@dataclass(frozen=True, kw_only=True)
class VectorRow:
    """An embedding model: the least cosine of a vector to sentence-transformers' one."""

    kind: str
    least_cosine: float
    dimension: int


def generated(folder: Path, root: Path) -> TextRow:
    """Have the service continue the prompts that transformers has continued."""
    info = import_model("zoo/model", folder, root=root)
    wanted = json.loads((folder.parent / f"{folder.name}.json").read_text())
    # Beside a Qwen2's configuration, transformers makes another tokenizer of the same files.
    engine = {**FLOAT32, "tokenizer": str(folder.parent / "tokenizer")}
    config = {"model_id": info.model_id, "model_root": root, "engine": engine}
    with VLLMService(config) as service:
        answers = service.generate(
            PROMPTS, temperature=0, max_tokens=NEW_TOKENS, min_tokens=NEW_TOKENS
        )
        _check_longest(lambda text: service.generate(text, max_tokens=1))
        kv_cache = _taken(info.path)
    estimate = estimate_memory(_spec(info, "generate"), "cpu")
    compared = [
        _compare(tokens, gaps, answer["text"].split())
        for (tokens, gaps), answer in zip(wanted["continued"], answers, strict=True)
    ]
    return TextRow(
        kind=str(info.tags["type"]),
        equal=compared.count("equal"),
        near_ties=compared.count("near tie"),
        weights=estimate.weight_bytes / (4 * wanted["parameters"]),
        kv_cache=_over(estimate, kv_cache),
    )


def embedded(folder: Path, root: Path) -> VectorRow:
    """Have the service embed the texts that sentence-transformers has embedded."""
    info = import_model("zoo/model", folder, root=root)
    wanted = np.load(folder.parent / f"{folder.name}.npy")
    config = {
        "embedding_model_id": info.model_id,
        "model_root": root,
        "allow_pickle": any(folder.rglob("*.bin")),
        "embedding_engine": FLOAT32,
    }
    with VLLMService(config) as service:
        vectors = np.array(service.embed(PROMPTS)["vectors"])
        _check_longest(service.embed, room=0)
    assert vectors.shape == wanted.shape
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(wanted, axis=1)
    return VectorRow(
        kind=str(info.tags["type"]),
        least_cosine=float(((vectors * wanted).sum(axis=1) / lengths).min()),
        dimension=vectors.shape[1],
    )


def refusal(folder: Path, root: Path, *, generates: bool) -> EngineError:
    """Return what the service says of a model that the engine cannot run."""
    info = import_model("zoo/model", folder, root=root)
    role = "" if generates else "embedding_"
    service = VLLMService(
        {f"{role}model_id": info.model_id, "model_root": root, f"{role}engine": FLOAT32}
    )
    try:
        service.setup()
    except EngineError as error:
        return error
    finally:
        service.cleanup()
    raise AssertionError(f"{folder.name} was loaded")


def _compare(tokens: list[str], gaps: list[float], given: list[str]) -> str:
    wanted = [token for token in tokens if token]
    if wanted == given:
        return "equal"
    pairs = zip(wanted, given, strict=False)
    first = next((n for n, (one, other) in enumerate(pairs) if one != other), len(given))
    return "near tie" if first < len(gaps) and gaps[first] < NEAR_TIE else "different"


def _check_longest(run: Any, *, room: int = 1) -> None:
    """An input of exactly the longest length is taken, and one with a token more is refused."""
    longest = words(CONTEXT - room, seed=0)
    assert run(longest)
    with pytest.raises(InvalidRequestError, match=str(CONTEXT)):
        run(f"{longest} w9")


def _taken(path: Path) -> float:
    """Return the bytes of a token in a block of the KV cache."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    runners = [each for each in gc.get_objects() if issubclass(type(each), GPUModelRunner)]
    (runner,) = (each for each in runners if each.model_config.model == str(path))
    tensors = [cache for cache in runner.kv_caches if hasattr(cache, "nbytes")]
    shared = {tensor.data_ptr(): tensor.nbytes for tensor in tensors}  # by layers of other groups
    config = runner.kv_cache_config
    size = max(group.kv_cache_spec.block_size for group in config.kv_cache_groups)
    return sum(shared.values()) / config.num_blocks / size


def _over(estimate: MemoryEstimate, taken: float) -> float | None:
    cache = estimate.cache
    return None if cache is None else cache.block_bytes / cache.block_size / taken


def _spec(info: ModelInfo, role: Any) -> EngineSpec:
    return EngineSpec(
        model_id=info.model_id,
        path=info.path,
        role=role,
        mode="inline",
        arguments=FLOAT32,
        allow_pickle=False,
    )
