"""by_code(): pickles what another process cannot import, such as a lambda, by its code.

It is in a module of its own, since cloudpickle is a package of the cluster's extra.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import _lru_cache_wrapper, lru_cache, update_wrapper
from io import BytesIO, TextIOWrapper
from pickle import PicklingError
from typing import Any

import cloudpickle


def by_code(value: Any) -> bytes:
    """Return a value as bytes; functions and classes of the main module go by their code."""
    data = BytesIO()
    _Pickler(data, 5).dump(value)
    return data.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Does what cloudpickle leaves undone."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, TextIOWrapper) and obj not in (sys.stdout, sys.stderr):
            # Else one that is read would go as a copy of its text, which each process begins anew.
            raise PicklingError(f"cannot pickle an open file ({getattr(obj, 'name', '')})")
        if isinstance(obj, _lru_cache_wrapper) and not _can_be_imported(obj):
            # The function comes as state, after its cache is known: it may call itself.
            return _cache, (obj.cache_parameters(),), obj.__wrapped__, None, None, _fill
        return super().reducer_override(obj)


def _can_be_imported(function: Any) -> bool:
    return function.__module__ != "__main__" and "<" not in function.__qualname__


def _cache(parameters: Mapping[str, Any]) -> Any:
    """Return a cached function that has no code yet."""
    code: list[Callable[..., Any]] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        return code[0](*args, **kwargs)

    cached: Any = lru_cache(**parameters)(call)
    cached.code = code
    return cached


def _fill(cached: Any, function: Callable[..., Any]) -> None:
    cached.code.append(function)
    update_wrapper(cached, function)
