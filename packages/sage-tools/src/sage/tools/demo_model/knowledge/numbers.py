"""What the demo model knows of numbers and the calendar."""

from __future__ import annotations

from itertools import pairwise

from sage.tools.demo_model.knowledge.family import Family

_WORDS = "zero one two three four five six seven eight nine ten"
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
_MONTHS = "January February March April May June July August September October November December"
_LENGTHS = {
    "February": "28 or 29",
    "April": "30",
    "June": "30",
    "September": "30",
    "November": "30",
}


def _in_words(number: int) -> str:
    return _WORDS.split()[number]


def _cycle(words: str) -> tuple[tuple[str, str], ...]:
    """Each word with the one that comes after it, the first again after the last."""
    first, *_ = names = words.split()
    return tuple(pairwise((*names, first)))


def _neighbours(unit: str, after: tuple[tuple[str, str], ...]) -> tuple[Family, Family]:
    following = Family(
        name=f"{unit}-after",
        phrasings=(
            f"Which {unit} comes after {{0}}?",
            f"What {unit} comes after {{0}}?",
            f"What is the {unit} after {{0}}?",
            f"Which {unit} follows {{0}}?",
            f"Tell me the {unit} after {{0}}.",
            f"Which {unit} is after {{0}}?",
            f"What {unit} follows {{0}}?",
            f"Name the {unit} after {{0}}.",
        ),
        answer=f"The {unit} after {{0}} is {{1}}.",
        facts=after,
    )
    preceding = Family(
        name=f"{unit}-before",
        phrasings=(
            f"Which {unit} comes before {{0}}?",
            f"What {unit} comes before {{0}}?",
            f"Which {unit} precedes {{0}}?",
            f"What is the {unit} before {{0}}?",
            f"Tell me the {unit} before {{0}}.",
            f"Which {unit} is before {{0}}?",
            f"What {unit} precedes {{0}}?",
            f"Name the {unit} before {{0}}.",
        ),
        answer=f"The {unit} before {{0}} is {{1}}.",
        facts=tuple((later, earlier) for earlier, later in after),
    )
    return following, preceding


FAMILIES = (
    Family(
        name="plus",
        phrasings=(
            "What is {0} plus {1}?",
            "How much is {0} plus {1}?",
            "Calculate {0} plus {1}.",
            "What is {0} + {1}?",
            "Add {0} and {1}.",
            "What is the sum of {0} and {1}?",
        ),
        answer="The answer to {0} plus {1} is {2}.",
        facts=tuple((str(a), str(b), str(a + b)) for a in range(1, 10) for b in range(1, 10)),
    ),
    Family(
        name="plus-in-words",
        phrasings=(
            "What is {0} plus {1}?",
            "How much is {0} plus {1}?",
            "Add {0} and {1}.",
            "Calculate {0} plus {1}.",
        ),
        answer="The answer to {0} plus {1} is {2}.",
        facts=tuple(
            (_in_words(a), _in_words(b), _in_words(a + b)) for a in range(1, 6) for b in range(1, 6)
        ),
    ),
    *_neighbours("day", _cycle(_DAYS)),
    *_neighbours("month", _cycle(_MONTHS)),
    Family(
        name="month-lengths",
        phrasings=(
            "How many days does {0} have?",
            "How many days has {0}?",
            "How long is {0}?",
            "How many days are there in {0}?",
        ),
        answer="The number of days in {0} is {1}.",
        facts=tuple((month, _LENGTHS.get(month, "31")) for month in _MONTHS.split()),
    ),
)
