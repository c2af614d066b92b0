"""The files of an adapter as they are published: the same for the same training, on any machine."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

from sage.tuning.data.base_tokenizer import read_object

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class BrokenAdapterError(ValueError):
    """What was trained is no adapter that vLLM would serve."""


def publish_adapter(checkpoint: Path, folder: Path, *, base_model: str) -> None:
    """Write the adapter of a checkpoint into a folder, without what is this machine's."""
    check_adapter(checkpoint / WEIGHTS)
    shutil.copyfile(checkpoint / WEIGHTS, folder / WEIGHTS)
    config = read_object(checkpoint / CONFIG)
    config["base_model_name_or_path"] = base_model
    config["inference_mode"] = True
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")


def check_adapter(weights: Path) -> None:
    """Raise BrokenAdapterError unless all of it is low-rank, finite, and some of it not zero."""
    from safetensors.torch import load_file

    tensors = load_file(weights)
    others = [name for name in tensors if ".lora_A." not in name and ".lora_B." not in name]
    if others:
        raise BrokenAdapterError(
            f"{weights.name} has {others[0]!r}, which is no part of an adapter"
        )
    for name, tensor in tensors.items():
        if not math.isfinite(float(tensor.abs().sum())):
            raise BrokenAdapterError(
                f"{name!r} has values that are no numbers: lower learning_rate"
            )
    if not any(bool(tensor.any()) for name, tensor in tensors.items() if ".lora_B." in name):
        raise BrokenAdapterError("nothing was learned: all of the adapter's B matrices are zero")
