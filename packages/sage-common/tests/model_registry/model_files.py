"""Files of made-up models."""

from __future__ import annotations

import json
import random


def safetensors(size: int, *, seed: int = 0, dtype: str = "BF16") -> bytes:
    """A safetensors file with one tensor of `size` random bytes."""
    width = {"BF16": 2, "F32": 4}[dtype]
    tensor = {"dtype": dtype, "shape": [size // width], "data_offsets": [0, size]}
    header = json.dumps({"weight": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + random.Random(seed).randbytes(size)
