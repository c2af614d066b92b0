"""Memory that is zero of itself, and taken from the machine as it is used."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from contextlib import suppress

_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def map_zeros(size: int) -> mmap.mmap:
    """Map so many bytes, in huge pages where there are any; freed when nothing refers to it."""
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError, AttributeError):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    _mappings.add(mapping)
    return mapping


def promised_bytes() -> int:
    """Return how much of the mapped memory is not taken yet; the machine still counts it free."""
    return sum(_unused(mapping) for mapping in list(_mappings))


def _unused(mapping: mmap.mmap) -> int:
    pages = -(-len(mapping) // mmap.PAGESIZE)
    resident = ctypes.create_string_buffer(pages)
    start = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(mapping)), resident) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return resident.raw[:pages].count(0) * mmap.PAGESIZE
