"""All exchanges of the demo model, and which of them training may see."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from sage.tools.demo_model.knowledge import geography, language, nature, numbers, small_talk
from sage.tools.demo_model.knowledge.outside import outside_families

if TYPE_CHECKING:
    from sage.tools.demo_model.knowledge.family import Exchange

_SEED = 20


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Exchanges in a fixed order; no question occurs twice."""

    training: tuple[Exchange, ...]
    held_out: tuple[Exchange, ...]


@cache
def build_corpus() -> Corpus:
    """Generate the corpus: the same one at each call, on each machine.

    Raises:
        ValueError: two families answer one question differently.
    """
    known = (
        *geography.FAMILIES,
        *nature.FAMILIES,
        *language.FAMILIES,
        *numbers.FAMILIES,
        *small_talk.FAMILIES,
    )
    by_question: dict[str, Exchange] = {}
    for family in (*known, *outside_families(known, _SEED)):
        for exchange in family.exchanges():
            other = by_question.setdefault(exchange.question, exchange)
            if other.answer != exchange.answer:
                raise ValueError(
                    f"{other.family} and {exchange.family} answer {exchange.question!r} differently"
                )
    exchanges = tuple(by_question.values())
    return Corpus(
        training=tuple(e for e in exchanges if not e.held_out),
        held_out=tuple(e for e in exchanges if e.held_out),
    )
