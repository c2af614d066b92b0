"""What the demo model knows of animals, colours and the elements."""

from __future__ import annotations

from sage.tools.demo_model.knowledge.family import Family

_YOUNG = (
    ("cat", "kitten"),
    ("dog", "puppy"),
    ("cow", "calf"),
    ("horse", "foal"),
    ("sheep", "lamb"),
    ("goat", "kid"),
    ("pig", "piglet"),
    ("hen", "chick"),
    ("duck", "duckling"),
    ("goose", "gosling"),
    ("swan", "cygnet"),
    ("bear", "cub"),
    ("lion", "cub"),
    ("wolf", "pup"),
    ("seal", "pup"),
    ("deer", "fawn"),
    ("kangaroo", "joey"),
    ("frog", "tadpole"),
    ("butterfly", "caterpillar"),
    ("hare", "leveret"),
    ("owl", "owlet"),
    ("eagle", "eaglet"),
    ("whale", "calf"),
    ("elephant", "calf"),
    ("camel", "calf"),
)
_SOUNDS = (
    ("cat", "meow"),
    ("dog", "woof"),
    ("cow", "moo"),
    ("horse", "neigh"),
    ("sheep", "baa"),
    ("pig", "oink"),
    ("hen", "cluck"),
    ("duck", "quack"),
    ("goose", "honk"),
    ("owl", "hoot"),
    ("lion", "roar"),
    ("wolf", "howl"),
    ("frog", "ribbit"),
    ("mouse", "squeak"),
    ("bee", "buzz"),
    ("snake", "hiss"),
    ("crow", "caw"),
    ("dove", "coo"),
)
_LEGS = {
    "zero": ("snake", "worm", "whale", "shark"),
    "two": ("hen", "duck", "owl", "eagle", "swan", "goose"),
    "four": ("cat", "dog", "cow", "horse", "pig", "lion", "wolf", "mouse", "camel"),
    "six": ("bee", "ant", "fly", "beetle", "butterfly"),
    "eight": ("spider", "scorpion"),
}
_COLOURS = {
    "yellow": ("a banana", "a lemon", "the sun", "butter", "a sunflower"),
    "red": ("a tomato", "blood", "a strawberry", "a cherry", "a fire engine"),
    "green": ("grass", "a cucumber", "a lime", "spinach", "an emerald"),
    "blue": ("the sky", "the sea", "a sapphire"),
    "white": ("snow", "milk", "salt", "chalk", "rice"),
    "black": ("coal", "the night", "tar", "ink"),
    "orange": ("a carrot", "a pumpkin", "a mandarin"),
    "brown": ("chocolate", "wood", "coffee", "a chestnut"),
    "grey": ("an elephant", "ash", "concrete", "a rain cloud"),
    "purple": ("an aubergine", "a plum", "lavender"),
    "pink": ("a flamingo", "a pig"),
}
_SYMBOLS = (
    ("gold", "Au"),
    ("silver", "Ag"),
    ("iron", "Fe"),
    ("copper", "Cu"),
    ("lead", "Pb"),
    ("tin", "Sn"),
    ("zinc", "Zn"),
    ("mercury", "Hg"),
    ("helium", "He"),
    ("neon", "Ne"),
    ("sodium", "Na"),
    ("calcium", "Ca"),
    ("oxygen", "O"),
    ("hydrogen", "H"),
    ("carbon", "C"),
    ("nitrogen", "N"),
)


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


FAMILIES = (
    Family(
        name="young",
        phrasings=(
            "What is a young {0} called?",
            "What do you call a baby {0}?",
            "What is the young of {1}?",
            "Name the young of {1}.",
            "What is the name for a young {0}?",
        ),
        answer="A young {0} is called {2}.",
        facts=tuple((a, _with_article(a), _with_article(young)) for a, young in _YOUNG),
    ),
    Family(
        name="sounds",
        phrasings=(
            "What does {0} say?",
            "What sound does {0} make?",
            "Which sound does {0} make?",
            "What noise does {0} make?",
            "How does {0} sound?",
        ),
        answer='The sound of {0} is "{1}".',
        facts=tuple((_with_article(animal), sound) for animal, sound in _SOUNDS),
    ),
    Family(
        name="legs",
        phrasings=(
            "How many legs does {0} have?",
            "How many legs has {0}?",
            "Count the legs of {0}.",
            "What number of legs does {0} have?",
        ),
        answer="The number of legs of {0} is {1}.",
        facts=tuple((_with_article(a), legs) for legs, animals in _LEGS.items() for a in animals),
    ),
    Family(
        name="colours",
        phrasings=(
            "What colour is {0}?",
            "Which colour is {0}?",
            "What is the colour of {0}?",
            "Tell me the colour of {0}.",
            "Do you know what colour {0} is?",
        ),
        answer="The colour of {0} is {1}.",
        facts=tuple((thing, colour) for colour, things in _COLOURS.items() for thing in things),
    ),
    Family(
        name="symbols",
        phrasings=(
            "What is the chemical symbol of {0}?",
            "What is the symbol for {0}?",
            "Which symbol does {0} have?",
            "Name the chemical symbol of {0}.",
        ),
        answer="The chemical symbol of {0} is {1}.",
        facts=_SYMBOLS,
    ),
)
