"""One kind of question: several ways to ask, many facts to ask about, one way to answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A question, its only right answer, and whether training must not see the question."""

    family: str
    question: str
    answer: str
    held_out: bool


@dataclass(frozen=True, kw_only=True)
class Family:
    """Phrasings and an answer with ``{0}``, ``{1}``, ... for the parts of each fact.

    Two habits make the facts learnable in a minute. An answer repeats what was asked before it
    tells, so that how the question was put no longer matters by then. And it starts with words of
    its own: a part of the fact at its very start would be another token than after a space.
    """

    name: str
    phrasings: tuple[str, ...]
    answer: str
    facts: tuple[tuple[str, ...], ...] = ((),)

    def exchanges(self) -> Iterator[Exchange]:
        """Every phrasing of every fact.

        The i-th fact is held out in the (i mod n)-th of the n phrasings: each fact and each
        phrasing is learned, but that combination of the two has to be worked out.
        """
        generalises = len(self.facts) > 1
        for i, fact in enumerate(self.facts):
            for j, phrasing in enumerate(self.phrasings):
                yield Exchange(
                    family=self.name,
                    question=_sentence(phrasing.format(*fact)),
                    answer=_sentence(self.answer.format(*fact)),
                    held_out=generalises and j == i % len(self.phrasings),
                )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
