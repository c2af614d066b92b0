"""Which files of a model are its weights, in which format, and which of them are missing."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from importlib.metadata import entry_points
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

Kind = TypeVar("Kind", dict[str, Any], list[Any])

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib")
"""Names of files that can run code when they are loaded."""

# Pickled too, and no part of the model: what a trainer leaves beside it.
_OF_TRAINERS = (
    "training_args.bin", "optimizer.*", "scheduler.*", "rng_state*", "scaler.pt", "trainer_state.*",
)  # fmt: skip
_WITH_WEIGHTS = (  # sentence-transformers' modules that have some of their own
    "Transformer", "Dense", "LSTM", "CNN", "WordEmbeddings", "WeightedLayerPooling", "LayerNorm",
)  # fmt: skip
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LARGEST_POINTER = 1024  # bytes, by the specification of Git LFS


def matches(path: str, patterns: str | Sequence[str]) -> bool:
    """Whether a file's path matches one of these patterns, as the hub's client reads them."""
    each = (patterns,) if isinstance(patterns, str) else patterns
    # A pattern for a folder means all that is in it.
    return any(fnmatch(path, f"{one}*" if one.endswith("/") else one) for one in each)


def is_pickled(path: str) -> bool:
    """Whether a file's name is that of a file that can run code when it is loaded."""
    return matches(path, PICKLED)


def is_pickled_weights(path: str) -> bool:
    """Whether a file's name is that of pickled weights, not of what a trainer leaves."""
    return is_pickled(path) and not matches(PurePosixPath(path).name, _OF_TRAINERS)


def is_weights(path: str) -> bool:
    """Whether a file's name is that of weights in a format that vLLM knows."""
    return path.endswith((".safetensors", ".gguf")) or is_pickled_weights(path)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter and no model: some have the base's ``config.json``."""
    if not (folder / "adapter_config.json").is_file():
        return False
    return not (folder / "config.json").is_file() or not _has_weights(folder)


def is_module_folder(folder: str) -> bool:
    """Whether a folder's name is that of a module of sentence-transformers, as ``2_Dense``."""
    number, underscore, name = folder.partition("_")
    return bool(underscore and name) and number.isdigit() and "/" not in folder


def gguf_is_supported() -> bool:
    """Whether a plugin is installed by which vLLM loads GGUF; without one it has none."""
    return bool(entry_points(group="vllm.general_plugins", name="gguf"))


def missing_weights(folder: Path) -> list[str]:
    """Return the weights that a model's own files name and its folder lacks, as relative paths.

    Those are the shards of an index, the weights of the modules in ``modules.json``, and any
    weights at all beside a ``config.json`` that names a class or a kind. Vectors of a model
    without one of its modules would look right and be others.
    """
    missing = {shard for index in folder.rglob("*.index.json") for shard in _absent(index, folder)}
    modules = read_json(folder / "modules.json", list)
    for module in modules:
        if not isinstance(module, dict):
            continue
        path = str(module.get("path", ""))
        if str(module.get("type", "")).rpartition(".")[2] in _WITH_WEIGHTS:
            missing |= _any_weights(folder / path, f"{path}/" if path else "")
    config = read_json(folder / "config.json", dict)
    is_model = bool(config.get("architectures") or config.get("model_type"))
    if is_model and not modules and not is_adapter(folder):
        missing |= _any_weights(folder, "")
    return sorted(missing)


def _absent(index: Path, folder: Path) -> Iterator[str]:
    """Yield the shards of an index that are not there, unless the same weights are otherwise."""
    usual = index.name == "model.safetensors.index.json"
    other_way = index.name == "pytorch_model.bin.index.json" and not any(
        index.parent.glob("*.safetensors")
    )
    shards = read_json(index, dict).get("weight_map")
    if isinstance(shards, dict) and (usual or other_way):
        for shard in map(str, shards.values()):
            if not (index.parent / shard).is_file():
                yield (index.parent / shard).relative_to(folder).as_posix()


def _any_weights(folder: Path, prefix: str) -> set[str]:
    return set() if _has_weights(folder) else {f"{prefix}model.safetensors"}


def _has_weights(folder: Path) -> bool:
    """Whether a folder has weights other than an adapter's."""
    return folder.is_dir() and any(
        is_weights(path.name) and not path.name.startswith("adapter_") for path in folder.iterdir()
    )


def lfs_pointers(files: Iterable[Path]) -> list[Path]:
    """Return those of these files that are pointers of Git LFS in place of the real content."""
    return [path for path in files if path.stat().st_size <= _LARGEST_POINTER and _points(path)]


def _points(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def read_json(path: Path, kind: type[Kind]) -> Kind:
    """Return what a file holds, if it is of this kind; else nothing of the kind."""
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        raw = None
    return raw if isinstance(raw, kind) else kind()
