"""What a model is, read from its files: what it does, its size, dtype and context length."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from sage.common.model_registry.weights import is_adapter, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sage.common.model_registry.model_info import Tag

# sentence-transformers writes these; a plain language model has none of them.
_EMBEDDING_FILES = ("modules.json", "config_sentence_transformers.json", "1_Pooling/config.json")
# What vLLM does with a class that no one tells it more about: the first ending that fits counts
# (vllm/config/model.py, _SUFFIX_TO_DEFAULTS; a test compares). Masked language models are ours:
# vLLM knows some of them by name, and embeds with those.
_TYPE_BY_ENDING = {
    "ForCausalLM": "text",
    "ForConditionalGeneration": "text",
    "ChatModel": "text",
    "LMHeadModel": "text",
    "ForTextEncoding": "embedding",
    "EmbeddingModel": "embedding",
    "ForMaskedLM": "embedding",
    "ForSentenceEmbedding": "embedding",
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "classification",
    "ForAudioClassification": "classification",
    "ForImageClassification": "classification",
    "ForVideoClassification": "classification",
    "ClassificationModel": "classification",
    "ForRewardModeling": "reward",
    "RewardModel": "reward",
    "Model": "embedding",
}
# Classes that vLLM knows by name, and whose ending says something else or nothing.
_TYPE_BY_CLASS = {
    "ChatGLMModel": "text",
    "MiDashengLMModel": "text",
    "MossAudioModel": "text",
    "Qwen2_5OmniModel": "text",
    "UltravoxModel": "text",
    "ColPaliForRetrieval": "embedding",
    "Terratorch": "embedding",
    "ClefOmniForJointSchema": "classification",
    "JinaVLForRanking": "classification",
}
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_LARGEST_HEADER = 100_000_000  # the limit of the safetensors format
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


_KEYS = frozenset({"type", "parameters", "dtype", "context_length"})


def own_tags(tags: Mapping[str, Tag]) -> dict[str, Tag]:
    """Return the tags that a user gave, without those that were read from files."""
    return {key: value for key, value in tags.items() if key not in _KEYS}


def read_traits(folder: Path) -> dict[str, Tag]:
    """Tags for a model's folder: "type" always; the others where the files tell.

    "type" is what vLLM would run the model as: "text", "embedding", "classification", "reward" or
    "lora". "parameters" is a count, "dtype" torch's name, "context_length" in tokens. Files that
    cannot be read tell nothing: a model is not refused for them here.
    """
    config = read_json(folder / "config.json", dict)
    # Models of several modalities keep the language model's numbers one level down.
    text_config = config.get("text_config")
    language = {**config, **(text_config if isinstance(text_config, dict) else {})}
    counts = _elements_by_dtype(folder)
    traits: dict[str, Tag] = {"type": _type_of(folder, config)}
    if counts:
        traits["parameters"] = sum(counts.values())
    dtype = language.get("dtype") or language.get("torch_dtype")
    if not dtype and counts:
        dtype = max(counts, key=lambda name: counts[name])
        dtype = _DTYPES.get(dtype, dtype.lower())
    if isinstance(dtype, str):
        traits["dtype"] = dtype
    for value in (
        read_json(folder / "sentence_bert_config.json", dict).get("max_seq_length"),
        *(language.get(key) for key in _CONTEXT_KEYS),
    ):
        if isinstance(value, int):
            traits["context_length"] = value
            break
    return traits


def _type_of(folder: Path, config: dict[str, Any]) -> str:
    if is_adapter(folder):
        return "lora"
    kind = type_of_class(config)
    if kind != "classification" and any((folder / name).is_file() for name in _EMBEDDING_FILES):
        return "embedding"
    return kind


def type_of_class(config: Mapping[str, Any], unknown: str = "text") -> str:
    """Return what vLLM would run a model as by the class that its ``config.json`` names.

    ``unknown`` is the type of a class whose name does not tell.
    """
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else ""
    name = str(first)
    if name in _TYPE_BY_CLASS:
        return _TYPE_BY_CLASS[name]
    return next((kind for end, kind in _TYPE_BY_ENDING.items() if name.endswith(end)), unknown)


def _elements_by_dtype(folder: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        for tensor in _read_header(path).values():
            if isinstance(tensor, dict) and isinstance(tensor.get("shape"), list):
                counts[str(tensor.get("dtype"))] += math.prod(tensor["shape"])
    return counts


def _read_header(path: Path) -> dict[str, Any]:
    """Return a safetensors file's JSON header, after its length in 8 bytes, little endian."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            raw = json.loads(file.read(length)) if length <= _LARGEST_HEADER else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}
