"""Importing large libraries without going over all that they make."""

from __future__ import annotations

import gc
import sys
import threading
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


@contextmanager
def left_out(package: str, reason: str) -> Iterator[None]:
    """Have this thread's imports of a package fail with ``reason``, unless it is imported already.

    It is for what a library imports where it is installed, needed or not.
    """
    finder = _LeftOut(package, reason)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _LeftOut:
    def __init__(self, package: str, reason: str) -> None:
        self._package = package
        self._reason = reason
        self._thread = threading.get_ident()

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        """Be the first that is asked where a module is."""
        if name == self._package and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(self._reason, name=name)
