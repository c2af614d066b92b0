"""The files of a whole model as they are published: the base's, with other weights.

Only weights differ from the base's files, and each has the base's type: transformers would write
other configurations and tokenizers than it has read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.planning.model_files import safetensors_files
from sage.tuning.data.base_tokenizer import read_object
from sage.tuning.training.adapter_files import CONFIG, WEIGHTS, check_adapter

_LEFT_OUT = {".safetensors", ".bin", ".pt", ".pth", ".gguf"}


def publish_trained_model(base: Path, checkpoint: Path, folder: Path) -> None:
    """Write a model all of whose weights were trained."""
    from safetensors import safe_open

    homes: dict[str, Any] = {}
    opened: Any
    for file in sorted(checkpoint.glob("*.safetensors")):
        opened = safe_open(file, framework="pt")
        names: list[str] = list(opened.keys())
        homes |= dict.fromkeys(names, opened)

    def trained(name: str, tensor: Any) -> Any:
        if name not in homes:
            raise ValueError(f"the trained model has no {name!r}, which its base has")
        return homes[name].get_tensor(name).to(tensor.dtype)

    _write(base, folder, trained)


def publish_merged_model(base: Path, checkpoint: Path, folder: Path) -> None:
    """Write a model with an adapter added to its weights, computed in float32."""
    from safetensors.torch import load_file

    check_adapter(checkpoint / WEIGHTS)
    adapter, config = load_file(checkpoint / WEIGHTS), read_object(checkpoint / CONFIG)
    scale = config["lora_alpha"] / config["r"]
    left = {name for name in adapter if ".lora_A." in name}

    def merged(name: str, tensor: Any) -> Any:
        part = f"base_model.model.{name.removesuffix('.weight')}"
        first, second = f"{part}.lora_A.weight", f"{part}.lora_B.weight"
        if first not in adapter:
            return tensor
        left.discard(first)
        change = scale * (adapter[second].float() @ adapter[first].float())
        return (tensor.float() + change).to(tensor.dtype)

    _write(base, folder, merged)
    if left:
        raise ValueError(f"the base has no weights for {min(left)!r} to be added to")


def _write(base: Path, folder: Path, changed: Callable[[str, Any], Any]) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    for path in sorted(base.iterdir()):
        if path.is_file() and path.suffix not in _LEFT_OUT:
            shutil.copyfile(path, folder / path.name)
    for file in safetensors_files(base.name, base):
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
            tensors = {
                name: changed(name, opened.get_tensor(name)).contiguous()
                for name in opened.keys()  # noqa: SIM118 - it is no dict
            }
        save_file(tensors, folder / file.name, metadata=metadata)
