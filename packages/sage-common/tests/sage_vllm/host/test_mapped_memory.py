"""Memory that is mapped now and taken as it is used."""

from __future__ import annotations

import gc
import mmap

import pytest

from sage.common.components.sage_vllm.host.mapped_memory import map_zeros, promised_bytes

SIZE = 64 << 20
HUGE_PAGE = 2 << 20


@pytest.fixture(autouse=True)
def no_others() -> None:
    """Free what is left of engines that have ended: else it may go while a test counts."""
    gc.collect()


def test_what_is_mapped_is_promised_until_it_is_written_or_freed() -> None:
    before = promised_bytes()
    mapping = map_zeros(SIZE)
    assert promised_bytes() - before == SIZE
    half = SIZE // 2
    assert mapping[:half] == bytes(half)  # reading zeros takes no memory, or takes what it reads
    mapping[:half] = b"\x01" * half
    assert half - HUGE_PAGE <= promised_bytes() - before <= half
    mapping[half:] = b"\x01" * half
    assert promised_bytes() == before
    del mapping
    assert promised_bytes() == before


def test_a_size_that_is_no_multiple_of_a_page() -> None:
    before = promised_bytes()
    mapping = map_zeros(mmap.PAGESIZE + 1)
    assert len(mapping) == mmap.PAGESIZE + 1
    assert promised_bytes() - before == 2 * mmap.PAGESIZE
