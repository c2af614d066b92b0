"""Reranker: puts what a search found into the order of a model that reads query and text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sage.middleware.components.memory.errors import UnusableValueError
from sage.middleware.components.memory.records import SearchHit


class Reranker:
    """Calls what it was given to score.

    That is something with ``score`` (a VLLMService), or a callable that takes a query and a list of
    texts. Its answer is a number per text, or a mapping that has them as ``scores``.
    """

    def __init__(self, given: Any) -> None:
        self._score = _function(given)

    def best(self, query: str, hits: Sequence[SearchHit], k: int) -> list[SearchHit]:
        """Return the ``k`` best hits with their new scores; equal ones stay in their order.

        Raises UnusableValueError for an answer that is not a number for each.
        """
        if not hits:
            return []
        answer = self._score(query, [hit.text for hit in hits])
        scores = _numbers(answer, len(hits))
        scored = [replace(hit, score=score) for hit, score in zip(hits, scores, strict=True)]
        return sorted(scored, key=lambda hit: -hit.score)[:k]


def _function(given: Any) -> Callable[[str, list[str]], Any]:
    score = getattr(given, "score", given)
    if not callable(score):
        raise TypeError(
            f"rerank has score(), or takes a query and a list of texts; {given!r} does neither"
        )
    function: Callable[[str, list[str]], Any] = score
    return function


def _numbers(answer: Any, count: int) -> list[float]:
    scores: Any = answer.get("scores") if isinstance(answer, Mapping) else answer
    try:
        numbers = [float(score) for score in scores]
    except (TypeError, ValueError) as error:
        raise UnusableValueError(f"the reranker gave no numbers ({error})") from error
    if len(numbers) != count:
        raise UnusableValueError(f"the reranker gave {len(numbers)} scores for {count} texts")
    if any(map(math.isnan, numbers)):
        raise UnusableValueError("the reranker gave a score that is no number (NaN)")
    return numbers
