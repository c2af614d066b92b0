"""Questions the demo model cannot answer, so that it learns to say so.

Two kinds: questions about anything else, and questions of the kinds it knows about things that do
not exist. One fixed reply answers both.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from sage.tools.demo_model.knowledge.family import Family

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REPLY = "I am a tiny demo model and only know a few simple facts."

_TOPICS = (
    "gravity, football, the stock market, quantum physics, cooking, the moon, climate change, "
    "music, history, jazz, chess, politics, the weather, medicine, poetry, Shakespeare, a good "
    "film, my homework, a bicycle, programming, Python, the internet, a telephone, the universe, "
    "love, time, God, money, pizza, electricity, a rocket, the Roman Empire, dinosaurs, a "
    "computer, artificial intelligence, bread, the president, philosophy, tennis, volcanoes, art, "
    "my dog, mathematics, a novel, fashion, tea, the brain, robots, law, a guitar"
)

_SINGLE = (
    "What is the meaning of life?",
    "Tell me a joke.",
    "Tell me a story.",
    "Sing a song for me.",
    "What time is it?",
    "What will happen tomorrow?",
    "How old are you?",
    "Do you dream?",
    "Where do you live?",
    "What should I eat tonight?",
    "Who will win the next election?",
    "How many people live on Earth?",
    "Can you book a flight for me?",
    "What is in the news?",
    "Fix this bug for me.",
    "Summarise this article.",
    "Translate this sentence.",
    "Write some code that sorts a list.",
)


def outside_families(known: Iterable[Family], seed: int) -> Iterator[Family]:
    """Return the out-of-scope families, given the families that the model does know."""
    yield Family(name="outside", answer=REPLY, phrasings=_SINGLE)
    yield Family(
        name="outside",
        answer=REPLY,
        phrasings=(
            "Tell me about {0}.",
            "Who invented {0}?",
            "How does {0} work?",
            "What do you think about {0}?",
            "Write a poem about {0}.",
            "Why do people like {0}?",
            "When did {0} begin?",
            "Explain {0} to me.",
            "Can you help me with {0}?",
            "What is the best book about {0}?",
        ),
        facts=tuple((topic,) for topic in _TOPICS.split(", ")),
    )
    rng = random.Random(seed)
    for family in known:
        if len(family.facts) == 1 or family.facts[0][0].isdigit():
            continue
        phrasings = tuple(p for p in family.phrasings if "{1}" not in p)
        facts = tuple((_invented(rng, family),) for _ in range(5))
        yield Family(name="unheard-of", answer=REPLY, phrasings=phrasings, facts=facts)


def _invented(rng: random.Random, family: Family) -> str:
    """Return a word that means nothing, dressed like the first part of a fact of the family."""
    model = rng.choice(family.facts)[0]
    word = "".join(
        rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 4))
    )
    word = word.capitalize() if model[0].isupper() else word
    article = model.split()[0]
    return f"{article} {word}" if article in {"a", "an", "the"} else word
