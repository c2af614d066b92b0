"""MemoryShare: how much of a device's memory a service may use, as a configuration says it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sage.common.components.sage_vllm.errors import InvalidOptionError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class MemoryShare:
    """So many ``bytes``, or a ``share`` of all that a device has, above 0 and at most 1."""

    bytes: int | None = None
    share: float | None = None

    def of(self, total: int) -> int:
        """Return the bytes that it is of a device with ``total``."""
        return int(self.share * total) if self.share is not None else self.bytes or 0


def memory_share(given: object) -> MemoryShare | None:
    """Return a ``memory_budget`` that was given; None for none. Raises InvalidOptionError.

    It is bytes (``16_000_000_000``), a text (``"16GB"``, ``"16GiB"``), or a share (``0.5``).
    """
    if given is None:
        return None
    if isinstance(given, str) and (match := _SIZE.fullmatch(given)):
        number, unit, binary = match.groups()
        factor = (_BINARY if binary and unit else _UNITS)[unit.lower()]
        given = int(float(number) * factor)
    if isinstance(given, int | float) and not isinstance(given, bool):
        if 0 < given <= 1:
            return MemoryShare(share=given)
        if given > 1 and given == int(given):
            return MemoryShare(bytes=int(given))
    problem = (
        f"memory_budget must be bytes, a text such as '16GB', or a share above 0 and at most 1, "
        f"not {given!r}"
    )
    raise InvalidOptionError("memory_budget", given, problem)
