"""A model's configuration as its library understands it, and how long its sequences may be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.planning.model_files import read_config, sentence_length

_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
# With these kinds of rotation, max_position_embeddings is the stretched length already.
_STRETCHED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")


def language_config(model_id: str, folder: Path) -> dict[str, Any]:
    """Return the configuration of the language model, with the defaults of its kind filled in.

    Files often leave out what their kind has by default, and each kind has its own names: so
    transformers reads it, where it is installed and knows the kind. What the file says is there
    under its own names besides. No code of the model's own is run. Raises BrokenModelError.
    """
    stored = read_config(model_id, folder)
    inner = stored.get("text_config")
    return {**stored, **(inner if isinstance(inner, Mapping) else {}), **_understood(stored)}


def _understood(stored: Mapping[str, Any]) -> dict[str, Any]:
    try:
        from transformers import CONFIG_MAPPING
    except ImportError:
        return {}
    try:
        config = CONFIG_MAPPING[stored["model_type"]].from_dict(stored).get_text_config()
        known = config.to_dict()
        for common_name in config.attribute_map:  # such as hidden_size for GPT-2's n_embd
            known[common_name] = getattr(config, common_name, None)
    except Exception:  # noqa: BLE001 - the kind is unknown, or refuses what the file says
        return {}
    return {name: value for name, value in known.items() if value is not None}


def longest_sequence(config: Mapping[str, Any], model_id: str, folder: Path) -> int | None:
    """Return how many tokens a sequence of the model has at most, as vLLM tells it.

    ``config`` is that of ``language_config``. A model of sentence-transformers says it itself.
    None where nothing does. Raises BrokenModelError.
    """
    if (length := sentence_length(model_id, folder)) is not None:
        return length
    named = config.get("model_max_length")
    values = [named] if _is_count(named) else [config.get(name) for name in _LENGTHS]
    lengths = [value for value in values if isinstance(value, int) and _is_count(value)]
    if not lengths:
        return None
    rotations = _rotations(config)
    if any(kind == "longrope" for kind, _ in rotations):  # longer ones would make short ones worse
        return int(config.get("original_max_position_embeddings") or min(lengths))
    factor = 1.0
    if "gemma3" not in str(config.get("model_type")):
        factor = next((by for kind, by in rotations if kind not in _STRETCHED and by), 1.0)
    return int(min(lengths) * factor)


def _rotations(config: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """Return the kind and factor of each rotation of positions; some kinds of layer have one."""
    given = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(given, Mapping):
        return []
    nested = [each for each in given.values() if isinstance(each, Mapping)]
    return [
        (str(each.get("rope_type") or each.get("type")), each.get("factor"))
        for each in nested or [given]
    ]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
