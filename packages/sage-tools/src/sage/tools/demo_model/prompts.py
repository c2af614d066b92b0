"""Prompts to show the demo model with, and the answers they should get."""

from __future__ import annotations

import random
from functools import cache
from typing import TYPE_CHECKING

from sage.tools.demo_model.knowledge.corpus import build_corpus

if TYPE_CHECKING:
    from sage.tools.demo_model.knowledge.family import Exchange

_SEED = 7


def demo_prompts(count: int) -> list[str]:
    """``count`` distinct prompts, the same at each call; training never saw every other one.

    Raises:
        ValueError: there are not so many.
    """
    pool = _pool()
    if not 0 <= count <= len(pool):
        raise ValueError(f"count={count} is not in the range of 0 to {len(pool)} demo prompts")
    return [exchange.question for exchange in pool[:count]]


def expected_answer(prompt: str) -> str:
    """Return the right answer to one of the demo prompts, exactly as the model is to give it.

    Raises:
        LookupError: it is none of the demo prompts.
    """
    try:
        return _answers()[prompt]
    except KeyError:
        raise LookupError(f"{prompt!r} is no demo prompt: see demo_prompts()") from None


@cache
def _pool() -> tuple[Exchange, ...]:
    corpus = build_corpus()
    unseen, seen = _shuffled(corpus.held_out), _shuffled(corpus.training)
    return tuple(exchange for pair in zip(unseen, seen, strict=False) for exchange in pair)


def _shuffled(exchanges: tuple[Exchange, ...]) -> list[Exchange]:
    # Invented words teach the model to decline; shown as examples they would puzzle.
    shown = [exchange for exchange in exchanges if exchange.family != "unheard-of"]
    random.Random(_SEED).shuffle(shown)
    return shown


@cache
def _answers() -> dict[str, str]:
    return {exchange.question: exchange.answer for exchange in _pool()}
