"""Importing large libraries without going over all that they make."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Collect no garbage meanwhile, and then freeze the heap.

    Importing vLLM makes a million objects that stay. Going over them again and again takes a third
    of the time, and later collections would go over them too.
    """
    if not gc.isenabled():  # whoever has done that collects by a plan of his own
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
