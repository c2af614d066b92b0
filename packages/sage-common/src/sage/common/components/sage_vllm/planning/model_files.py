"""What a model's folder says of itself: its configuration, and its weights by their headers.

BrokenModelError    (EngineError, ValueError)    a file of the model cannot be what it should be
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sage.common.components.sage_vllm.errors import EngineError

Kind = TypeVar("Kind", dict[str, Any], list[Any])

_LARGEST_HEADER = 100_000_000  # the limit of the safetensors format
_INDEX = "model.safetensors.index.json"
_CONFIG = "config.json"
_SENTENCES = "sentence_bert_config.json"
_OTHER_CONFIGS = ("params.json", "*.gguf")  # models that come without a config.json


class BrokenModelError(EngineError, ValueError):
    """A file of the model is missing, cut off or unreadable; ``path`` is that file."""

    def __init__(self, model_id: str, reason: str, path: Path) -> None:
        super().__init__(
            model_id,
            f"{model_id!r} cannot be loaded: {path} {reason}",
            hint=f"run `sage llm model repair {model_id}`, or download or import it again",
        )
        self.path = path
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a weight file; ``dtype`` is the file's name of it, such as ``"BF16"``.

    Its ``stored_bytes`` bytes begin at the byte ``start`` of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stored_bytes: int
    start: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_config(model_id: str, folder: Path) -> dict[str, Any]:
    """Return config.json; ``{}`` for a format that has none. Raises BrokenModelError."""
    path = folder / _CONFIG
    if not path.exists() and any(any(folder.glob(name)) for name in _OTHER_CONFIGS):
        return {}
    return read_json(model_id, path, dict)


def sentence_length(model_id: str, folder: Path) -> int | None:
    """Return how many tokens a model of sentence-transformers reads, None for any other model."""
    path = folder / _SENTENCES
    length = read_json(model_id, path, dict).get("max_seq_length") if path.exists() else None
    return length if isinstance(length, int) and length > 0 else None


def safetensors_files(model_id: str, folder: Path) -> list[Path]:
    """Return the files with safetensors weights that an engine reads: those of the index, or all.

    ``consolidated*.safetensors`` beside others are the same weights again and left out. Raises
    BrokenModelError for a file that the index names and that is not there.
    """
    index = folder / _INDEX
    if index.exists():
        weight_map = read_json(model_id, index, dict).get("weight_map")
        if not isinstance(weight_map, dict):
            raise BrokenModelError(model_id, "has no 'weight_map'", index)
        files = [folder / name for name in sorted(set(map(str, weight_map.values())))]
        for file in files:
            if not file.is_file():
                raise BrokenModelError(model_id, f"is missing, and {_INDEX} names it", file)
        return files
    files = sorted(folder.glob("*.safetensors"))
    return [file for file in files if not file.name.startswith("consolidated")] or files


def read_tensors(model_id: str, file: Path) -> list[Tensor]:
    """Return the tensors of a safetensors file from its header; no weight is read.

    The format (github.com/huggingface/safetensors): the header's length in 8 bytes, little endian,
    the header as JSON, then the tensors' bytes. Raises BrokenModelError where the header cannot
    be read, or promises more bytes than the file has.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
                raise BrokenModelError(model_id, f"is cut off or damaged ({size:,} bytes)", file)
            header = json.loads(opened.read(length))
        tensors = [
            Tensor(
                name=name,
                dtype=str(entry["dtype"]),
                shape=tuple(map(int, entry["shape"])),
                stored_bytes=int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
                start=8 + length + int(entry["data_offsets"][0]),
            )
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        if isinstance(error, BrokenModelError):
            raise
        raise BrokenModelError(model_id, f"has no readable header ({error})", file) from error
    promised = 8 + length + sum(tensor.stored_bytes for tensor in tensors)
    if promised > size:
        raise BrokenModelError(model_id, f"is cut off: it has {size:,} bytes of {promised:,}", file)
    return tensors


def read_json(model_id: str, path: Path, kind: type[Kind]) -> Kind:
    """Return what a JSON file holds; raises BrokenModelError unless it is of this kind."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BrokenModelError(model_id, "is missing", path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenModelError(model_id, f"is not readable JSON ({error})", path) from error
    if not isinstance(content, kind):
        what = "object" if kind is dict else "array"
        raise BrokenModelError(model_id, f"is not a JSON {what}", path)
    return content
