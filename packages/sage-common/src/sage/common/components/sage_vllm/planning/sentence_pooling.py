"""What vLLM must be told, so that an embedding model's vectors are those of sentence-transformers.

UnsupportedModelError    (EngineError, ValueError)  vLLM has no way to make this model's vectors
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.errors import EngineError
from sage.common.components.sage_vllm.planning.model_files import (
    BrokenModelError,
    read_config,
    read_json,
    read_tensors,
    sentence_length,
)
from sage.common.components.sage_vllm.planning.text_prompts import TextPrompts, read_text_prompts

# The modules that vLLM does, by the types that it looks for in modules.json; others it passes over
# without a word (vllm/transformers_utils/config.py; a test compares).
_POOLING_MODULES = (
    "sentence_transformers.models.Pooling",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
)
_DENSE_MODULES = (
    "sentence_transformers.models.Dense",
    "sentence_transformers.base.modules.dense.Dense",
    "pylate.models.Dense.Dense",
)
_NORMALIZE_MODULES = (
    "sentence_transformers.models.Normalize",
    "sentence_transformers.base.modules.normalize.Normalize",
    "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
)
_POOLING = ("cls", "cls_token", "mean", "mean_tokens", "lasttoken")
_ACTIVATIONS = ("", "Identity", "Tanh", "ReLU", "SiLU", "Sigmoid", "GELU")
_DENSE_WEIGHTS = ("weight", "linear.weight", "dense.weight")
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet")
_ELSEWHERE = "get_embedding_model('hf') loads it"


class UnsupportedModelError(EngineError, ValueError):
    """vLLM would make vectors of this model, and others than sentence-transformers makes."""

    def __init__(self, model_id: str, reason: str, *, hint: str | None = None) -> None:
        problem = f"{model_id!r} cannot be served for embedding: {reason}"
        super().__init__(model_id, problem, hint=hint)
        self.reason = reason


def embedding_arguments(
    model_id: str, folder: Path, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments to add to an embedding engine's, beside those that the user gave.

    Without ``modules.json``, sentence-transformers takes the mean over the tokens, and vLLM what
    the architecture's authors took, mostly the first token.

    Raises UnsupportedModelError where a module or a way of pooling is one that vLLM does not have,
    BrokenModelError for a file that is missing or cannot be read.
    """
    added: dict[str, Any] = {}
    if not (folder / "modules.json").is_file():
        added["pooler_config"] = {"seq_pooling_type": "MEAN"}
    else:
        _check_modules(model_id, folder)
    added |= position_arguments(model_id, folder, arguments)
    return {name: value for name, value in added.items() if arguments.get(name) is None}


def position_arguments(model_id: str, folder: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what vLLM must be told of models whose positions begin behind the padding's.

    Beside ``arguments``, which go first. Raises UnsupportedModelError and BrokenModelError.
    """
    added: dict[str, Any] = {}
    config = read_config(model_id, folder)
    if config.get("model_type") in _POSITIONS_AFTER_PADDING:
        # Absent from a configuration that has the usual value, and vLLM reads it all the same.
        if "position_embedding_type" not in config:
            added["hf_overrides"] = {"position_embedding_type": "absolute"}
        if (longest := _longest(model_id, folder, config, arguments)) is not None:
            added["max_model_len"] = longest
    return {name: value for name, value in added.items() if arguments.get(name) is None}


def vector_length(model_id: str, folder: Path) -> int | None:
    """Return how many numbers the last Dense module makes a vector of; None without one."""
    if not (folder / "modules.json").is_file():
        return None
    lengths = [
        read_json(model_id, folder / str(module["path"]) / "config.json", dict)["out_features"]
        for module in read_json(model_id, folder / "modules.json", list)
        if module["type"] in _DENSE_MODULES
    ]
    return lengths[-1] if lengths else None


def _longest(
    model_id: str, folder: Path, config: Mapping[str, Any], arguments: Mapping[str, Any]
) -> int | None:
    """Return the longest text of a model whose positions begin behind the padding token's id.

    vLLM counts all rows of its table of positions, and would read behind its end.
    """
    rows = config.get("max_position_embeddings")
    if not isinstance(rows, int):
        return None
    longest = rows - int(config.get("pad_token_id") or 0) - 1
    asked = arguments.get("max_model_len")
    if isinstance(asked, int) and asked > longest:
        raise UnsupportedModelError(
            model_id, f"max_model_len={asked} is more than its {longest} positions"
        )
    return min(longest, sentence_length(model_id, folder) or longest)


def _check_modules(model_id: str, folder: Path) -> None:
    for module in read_json(model_id, folder / "modules.json", list):
        entry = module if isinstance(module, Mapping) else {}
        kind, path = str(entry.get("type")), folder / str(entry.get("path", ""))
        if kind in _POOLING_MODULES:
            _check_pooling(model_id, path, read_text_prompts(model_id, folder))
        elif kind in _DENSE_MODULES:
            _check_dense(model_id, path)
        elif kind not in _NORMALIZE_MODULES and not kind.endswith(".Transformer"):
            raise UnsupportedModelError(
                model_id,
                f"vLLM knows no module of type {kind!r}, which it has",
                hint=_ELSEWHERE,
            )


def _check_pooling(model_id: str, folder: Path, prompts: TextPrompts) -> None:
    config = read_json(model_id, folder / "config.json", dict)
    ways = [
        name.removeprefix("pooling_mode_")
        for name, value in config.items()
        if value is True and name.startswith("pooling_mode_")
    ]
    if isinstance(named := config.get("pooling_mode"), str):
        ways = named.split("+")
    if len(ways) != 1 or ways[0] not in _POOLING:
        raise UnsupportedModelError(
            model_id,
            f"it pools by {' and '.join(ways) or 'nothing'}, and vLLM by one of cls, mean and "
            f"lasttoken",
            hint=_ELSEWHERE,
        )
    if config.get("include_prompt") is False and any(prompts.by_name.values()):
        raise UnsupportedModelError(
            model_id,
            "it leaves the tokens of its prompts out of its vectors, and vLLM pools all tokens",
            hint=_ELSEWHERE,
        )


def _check_dense(model_id: str, folder: Path) -> None:
    config = read_json(model_id, folder / "config.json", dict)
    activation = str(config.get("activation_function") or "").rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise UnsupportedModelError(
            model_id,
            f"its module {folder.name!r} has the activation {activation!r}, and vLLM has "
            f"{', '.join(filter(None, _ACTIVATIONS))}",
            hint=_ELSEWHERE,
        )
    weights = folder / "model.safetensors"
    if weights.is_file():
        names = [tensor.name for tensor in read_tensors(model_id, weights)]
        if not set(names) & set(_DENSE_WEIGHTS):
            raise BrokenModelError(
                model_id, f"has no weight of a dense layer, but {names}", weights
            )
    elif not (folder / "pytorch_model.bin").is_file():
        raise BrokenModelError(model_id, "is missing", weights)
