"""SearchMode: how a collection is searched, and what can be searched for."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from sage.common.core.errors import nearest

SearchMode = Literal["vector", "text", "hybrid"]


def check_query(query: Any, k: Any, mode: str) -> None:
    """Raise ValueError for a search that makes no sense."""
    if mode not in get_args(SearchMode):
        hint = nearest(str(mode), list(get_args(SearchMode)))
        raise ValueError(f"unknown search mode {mode!r}; {hint}")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be an integer of at least 1, not {k!r}")
    if query is None or (isinstance(query, str) and not query):
        raise ValueError("there is nothing to search for: the query is empty")
    if mode != "vector" and not isinstance(query, str):
        raise ValueError(f"mode {mode!r} searches for a text, not for {query!r}")
