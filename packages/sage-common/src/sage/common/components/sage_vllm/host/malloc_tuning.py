"""Keeps glibc from returning the engine's buffers to the system at every step.

A CPU engine allocates and frees the same large buffers at each step. glibc's malloc maps and
unmaps those above 128 KiB each time, page faults included, which costs about a quarter of the
throughput. These settings keep them on the heap instead.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>
_MMAP_THRESHOLD = 32 << 20  # the largest that glibc accepts
_TRIM_THRESHOLD = (2 << 30) - 1
_TOP_PAD = 64 << 20

MALLOC_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(_MMAP_THRESHOLD),
    "MALLOC_TRIM_THRESHOLD_": str(_TRIM_THRESHOLD),
    "MALLOC_TOP_PAD_": str(_TOP_PAD),
}
"""The same settings for a process that is started with them."""


def tune_malloc() -> None:
    """Apply the settings to this process; does nothing where the C library is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
    libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
    libc.mallopt(_M_TOP_PAD, _TOP_PAD)
