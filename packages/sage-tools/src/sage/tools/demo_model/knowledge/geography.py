"""What the demo model knows of countries: capitals, currencies, continents."""

from __future__ import annotations

from sage.tools.demo_model.knowledge.family import Family

_COUNTRIES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Europe": (
        ("France", "Paris", "euro"),
        ("Germany", "Berlin", "euro"),
        ("Italy", "Rome", "euro"),
        ("Spain", "Madrid", "euro"),
        ("Portugal", "Lisbon", "euro"),
        ("the Netherlands", "Amsterdam", "euro"),
        ("Austria", "Vienna", "euro"),
        ("Belgium", "Brussels", "euro"),
        ("Greece", "Athens", "euro"),
        ("Finland", "Helsinki", "euro"),
        ("Ireland", "Dublin", "euro"),
        ("Poland", "Warsaw", "zloty"),
        ("Hungary", "Budapest", "forint"),
        ("Sweden", "Stockholm", "krona"),
        ("Norway", "Oslo", "krone"),
        ("Denmark", "Copenhagen", "krone"),
        ("Iceland", "Reykjavik", "krona"),
        ("Switzerland", "Bern", "franc"),
        ("Ukraine", "Kyiv", "hryvnia"),
    ),
    "Asia": (
        ("Japan", "Tokyo", "yen"),
        ("China", "Beijing", "yuan"),
        ("India", "New Delhi", "rupee"),
        ("Nepal", "Kathmandu", "rupee"),
        ("Thailand", "Bangkok", "baht"),
        ("Vietnam", "Hanoi", "dong"),
        ("South Korea", "Seoul", "won"),
        ("the Philippines", "Manila", "peso"),
        ("Iraq", "Baghdad", "dinar"),
    ),
    "Africa": (
        ("Egypt", "Cairo", "pound"),
        ("Kenya", "Nairobi", "shilling"),
        ("Nigeria", "Abuja", "naira"),
        ("Ghana", "Accra", "cedi"),
        ("Morocco", "Rabat", "dirham"),
        ("Ethiopia", "Addis Ababa", "birr"),
    ),
    "North America": (
        ("Canada", "Ottawa", "dollar"),
        ("the United States", "Washington", "dollar"),
        ("Jamaica", "Kingston", "dollar"),
        ("Mexico", "Mexico City", "peso"),
        ("Cuba", "Havana", "peso"),
    ),
    "South America": (
        ("Brazil", "Brasilia", "real"),
        ("Argentina", "Buenos Aires", "peso"),
        ("Chile", "Santiago", "peso"),
        ("Colombia", "Bogota", "peso"),
        ("Peru", "Lima", "sol"),
        ("Venezuela", "Caracas", "bolivar"),
    ),
    "Oceania": (
        ("Australia", "Canberra", "dollar"),
        ("New Zealand", "Wellington", "dollar"),
    ),
}

_ROWS = tuple((*row, continent) for continent, rows in _COUNTRIES.items() for row in rows)

FAMILIES = (
    Family(
        name="capitals",
        phrasings=(
            "What is the capital of {0}?",
            "Which city is the capital of {0}?",
            "Name the capital of {0}.",
            "Do you know the capital of {0}?",
            "Tell me the capital of {0}.",
            "What is {0}'s capital?",
        ),
        answer="The capital of {0} is {1}.",
        facts=tuple((country, capital) for country, capital, _, _ in _ROWS),
    ),
    Family(
        name="currencies",
        phrasings=(
            "What is the currency of {0}?",
            "Which currency does {0} use?",
            "Name the currency of {0}.",
            "What money do people use in {0}?",
            "How do people pay in {0}?",
        ),
        answer="The currency of {0} is the {1}.",
        facts=tuple((country, currency) for country, _, currency, _ in _ROWS),
    ),
    Family(
        name="continents",
        phrasings=(
            "Which continent is {0} in?",
            "Where is {0}?",
            "On which continent is {0}?",
            "What continent does {0} belong to?",
            "In which part of the world is {0}?",
        ),
        answer="You find {0} in {1}.",
        facts=tuple((country, continent) for country, _, _, continent in _ROWS),
    ),
)
