"""Whether an adapter can teach a base model to end its answers.

An adapter changes what goes into the model's last matrix, not the matrix. A token whose row there
is next to zero, as those of tokens are that a model was never trained on, cannot become the
likeliest: the model would learn its answers and never stop.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sage.common.components.sage_vllm.planning.model_files import (
    Tensor,
    read_tensors,
    safetensors_files,
)

_LEAST = 0.01
"""The share of the usual length that a row has to have."""
_SAMPLED = 64
_HEADS = ("lm_head.weight", "embed_out.weight")
_TIED = ("embed_tokens.weight", "wte.weight")
_TYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def row_is_empty(model_id: str, folder: Path, token: int) -> str | None:
    """Return the name of the last matrix if its row of a token is next to zero, else None.

    None as well where the matrix cannot be told or read. Raises BrokenModelError.
    """
    found = _last_matrix(model_id, folder)
    if found is None or token >= found[1].shape[0]:
        return None
    file, tensor = found
    rows = np.linspace(0, tensor.shape[0] - 1, _SAMPLED).astype(int).tolist()
    token_row, *others = _lengths(file, tensor, [token, *rows])
    return tensor.name if token_row < _LEAST * float(np.median(others)) else None


def _last_matrix(model_id: str, folder: Path) -> tuple[Path, Tensor] | None:
    tensors = [
        (file, tensor)
        for file in safetensors_files(model_id, folder)
        for tensor in read_tensors(model_id, file)
        if tensor.dtype in _TYPES and len(tensor.shape) == 2
    ]
    for names in (_HEADS, _TIED):
        for file, tensor in tensors:
            if tensor.name.endswith(names):
                return file, tensor
    return None


def _lengths(file: Path, tensor: Tensor, rows: Iterable[int]) -> list[float]:
    kind, width = np.dtype(_TYPES[tensor.dtype]), tensor.shape[1]
    lengths = []
    with file.open("rb") as opened:
        for row in rows:
            opened.seek(tensor.start + row * width * kind.itemsize)
            values = np.frombuffer(opened.read(width * kind.itemsize), kind)
            if kind == np.uint16:  # bfloat16 is the upper half of a float32
                values = (values.astype(np.uint32) << 16).view(np.float32)
            lengths.append(float(np.linalg.norm(values.astype(np.float64))))
    return lengths
