"""How much memory this process has of its machine."""

from __future__ import annotations

import mmap
from pathlib import Path

from sage.common.components.sage_vllm.host.mapped_memory import promised_bytes


def own_memory() -> int:
    """Return the bytes that this process has taken, and those of its caches that it will take.

    Linux only: the resident pages of ``/proc/self/statm``.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * mmap.PAGESIZE + promised_bytes()
