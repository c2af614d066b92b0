"""SearchMode: how a collection is searched, and what can be searched for."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from sage.common.core.errors import nearest

SearchMode = Literal["vector", "text", "hybrid"]


_MOST = 1_000_000_000  # what LanceDB can count to is hardly more


def check_query(query: Any, k: Any, mode: str) -> None:
    """Raise ValueError for a search that makes no sense."""
    if mode not in get_args(SearchMode):
        hint = nearest(str(mode), list(get_args(SearchMode)))
        raise ValueError(f"unknown search mode {mode!r}; {hint}")
    _check_count("k", k, 1)
    if query is None or (isinstance(query, str) and not query):
        raise ValueError("there is nothing to search for: the query is empty")
    if mode != "vector" and not isinstance(query, str):
        raise ValueError(f"mode {mode!r} searches for a text, not for {query!r}")


def check_candidates(query: Any, k: int, candidates: Any) -> None:
    """Raise ValueError for candidates that cannot be scored, or are too few."""
    if not isinstance(query, str):
        raise ValueError(f"a reranker reads the query: pass a text, not {query!r}")
    _check_count("candidates", candidates, 1)
    if candidates < k:
        raise ValueError(f"candidates={candidates} are fewer than the k={k} to be returned")


def check_page(limit: Any, offset: Any) -> None:
    """Raise ValueError for a page of records that makes no sense."""
    if limit is not None:
        _check_count("limit", limit, 0)
    _check_count("offset", offset, 0)


def _check_count(name: str, value: Any, least: int) -> None:
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    if value > _MOST:
        raise ValueError(f"{name} must be an integer of at most {_MOST:,}, not {value!r}")
