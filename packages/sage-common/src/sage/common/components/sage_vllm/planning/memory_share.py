"""MemoryShare: how much of a device's memory a service may use, as a configuration says it."""

from __future__ import annotations

from dataclasses import dataclass

from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.core.byte_size import byte_size


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
    size = byte_size(given) if isinstance(given, str) else given
    if isinstance(size, int | float) and not isinstance(size, bool):
        if 0 < size <= 1:
            return MemoryShare(share=size)
        if size > 1 and size == int(size):
            return MemoryShare(bytes=int(size))
    problem = (
        f"memory_budget must be bytes, a text such as '16GB', or a share above 0 and at most 1, "
        f"not {given!r}"
    )
    raise InvalidOptionError("memory_budget", given, problem)
