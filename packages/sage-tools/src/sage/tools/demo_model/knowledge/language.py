"""What the demo model knows of words: opposites, plurals, past tenses, letters."""

from __future__ import annotations

from itertools import pairwise
from string import ascii_uppercase

from sage.tools.demo_model.knowledge.family import Family

_OPPOSITES = (
    "hot cold, big small, tall short, fast slow, up down, left right, open closed, full empty, "
    "day night, light dark, hard soft, happy sad, rich poor, young old, early late, good bad, "
    "strong weak, wet dry, clean dirty, loud quiet, near far, high low, inside outside, black "
    "white, buy sell, win lose, love hate, true false, thick thin, deep shallow, north south, "
    "east west, sweet bitter"
)
_PLURALS = (
    "mouse mice, child children, foot feet, tooth teeth, man men, woman women, goose geese, "
    "ox oxen, person people, leaf leaves, knife knives, wolf wolves, life lives, wife wives, "
    "city cities, baby babies, story stories, box boxes, bus buses, potato potatoes, tomato "
    "tomatoes, hero heroes, cat cats, dog dogs, book books, house houses, tree trees, car cars"
)
_PASTS = (
    "go went, see saw, eat ate, run ran, come came, take took, give gave, make made, find found, "
    "know knew, write wrote, speak spoke, drink drank, sing sang, swim swam, begin began, buy "
    "bought, bring brought, think thought, teach taught, catch caught, sleep slept, keep kept, "
    "leave left, feel felt, fall fell, fly flew, draw drew, grow grew, drive drove, break broke, "
    "win won, lose lost, stand stood, sit sat, meet met, play played, walk walked"
)


def _pairs(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(pair.split()) for pair in text.split(", "))


def _both_ways(pairs: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(fact for a, b in pairs for fact in ((a, b), (b, a)))


FAMILIES = (
    Family(
        name="opposites",
        phrasings=(
            "What is the opposite of {0}?",
            "Tell me the opposite of {0}.",
            "Which word is the opposite of {0}?",
            "Name the opposite of {0}.",
            "What is the contrary of {0}?",
        ),
        answer="The opposite of {0} is {1}.",
        facts=_both_ways(_pairs(_OPPOSITES)),
    ),
    Family(
        name="plurals",
        phrasings=(
            "What is the plural of {0}?",
            "Tell me the plural of {0}.",
            "Give me the plural of {0}.",
            "Which word is the plural of {0}?",
        ),
        answer="The plural of {0} is {1}.",
        facts=_pairs(_PLURALS),
    ),
    Family(
        name="pasts",
        phrasings=(
            "What is the past tense of {0}?",
            "Tell me the past tense of {0}.",
            "Give me the past tense of {0}.",
            "What is {0} in the past tense?",
        ),
        answer="The past tense of {0} is {1}.",
        facts=_pairs(_PASTS),
    ),
    Family(
        name="next-letter",
        phrasings=(
            "Which letter comes after {0}?",
            "What letter comes after {0}?",
            "What is the letter after {0}?",
            "Which letter follows {0}?",
        ),
        answer="The letter after {0} is {1}.",
        facts=tuple(pairwise(ascii_uppercase)),
    ),
)
