"""Memory that is zero of itself, and taken from the machine as it is used."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from typing import Protocol, runtime_checkable

_TAKEN_IN_ALL, _PIECE = 1 << 30, 16 << 20  # bytes
_HANDOVER_SECONDS = 100e-6  # for a thread that waits for its turn to wake up and have it
_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def map_zeros(size: int) -> mmap.mmap:
    """Map so many bytes, in huge pages where there are any; freed when nothing refers to it."""
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError, AttributeError):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    _mappings.add(mapping)
    return mapping


@runtime_checkable
class Cache(Protocol):
    """A KV cache of one layer, a tensor: its blocks are its first dimension."""

    nbytes: int

    def __len__(self) -> int:
        """Return the number of its blocks."""

    def __getitem__(self, part: slice) -> Cache:
        """Return some of its blocks."""

    def zero_(self) -> object:
        """Write zeros to all of it."""


def take_first_blocks(caches: Iterable[object], turn: AbstractContextManager[object]) -> None:
    """Take now the memory of mapped KV caches' first blocks, in which the first batches compute.

    A virtual machine that gets its memory from its host as it is used may take two seconds for a
    GB, and the first batches would wait for it. It is one GB of all caches together, taken in
    pieces: within ``turn`` each, which is free between them for engines that serve.
    """
    # A layer of another kind than attention has a list of states in place of a tensor.
    tensors = [cache for cache in caches if isinstance(cache, Cache) and cache.nbytes]
    in_all = sum(cache.nbytes for cache in tensors)
    for cache in tensors:
        first = len(cache) * min(_TAKEN_IN_ALL, in_all) // in_all  # blocks are used in their order
        step = max(1, len(cache) * _PIECE // cache.nbytes)
        for start in range(0, first, step):
            with turn:
                cache[start : min(start + step, first)].zero_()
            time.sleep(_HANDOVER_SECONDS)


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
