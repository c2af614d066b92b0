"""byte_size(): numbers of bytes as people write them."""

from __future__ import annotations

import re

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


def byte_size(text: str) -> int | None:
    """Return the bytes that ``"16GB"``, ``"16GiB"`` or ``"1.5g"`` are; None for what is no size."""
    if (match := _SIZE.fullmatch(text)) is None:
        return None
    number, unit, binary = match.groups()
    return int(float(number) * (_BINARY if binary and unit else _UNITS)[unit.lower()])
