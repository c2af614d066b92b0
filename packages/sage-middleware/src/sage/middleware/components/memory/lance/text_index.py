"""How texts become words, and what a query asks for.

ICU's dictionaries find the words of Chinese, Japanese and Thai, which no spaces separate; the
words of one language are stemmed, so that "whales" finds "whale".
"""

from __future__ import annotations

import re
from typing import Any

from sage.common.core.errors import nearest

DEFAULT_LANGUAGE = "english"
_STEMMED = [
    "arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian",
    "italian", "norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "tamil",
    "turkish",
]  # fmt: skip
LANGUAGES = ["none", *_STEMMED]
# LanceDB's own list for ICU is that of all languages at once: it drops "dog" and "cat". Those of
# other languages are kept: they are in so many texts that they weigh next to nothing.
_STOP_WORDS = {
    "english": (
        "a an and are as at be but by for if in into is it no not of on or such that the their "
        "then there these they this to was will with"
    ).split()
}
_PHRASE = re.compile(r'"([^"]*)"|“([^”]*)”')


def check_language(language: Any) -> str:
    """Return a language's name as it is stored; raises ValueError for one that is not known."""
    name = str(language).lower()
    if name not in LANGUAGES:
        raise ValueError(
            f"unknown language {language!r}; {nearest(name, LANGUAGES)} Any language is found by "
            f"whole words with language='none'"
        )
    return name


def index_options(language: str) -> dict[str, Any]:
    """Return the options of LanceDB's index for a language."""
    stop_words = _STOP_WORDS.get(language)
    return {
        "base_tokenizer": "icu",
        "with_position": True,  # for phrases
        "language": (language if language in _STEMMED else DEFAULT_LANGUAGE).capitalize(),
        "stem": language in _STEMMED,
        "remove_stop_words": stop_words is not None,
        "custom_stop_words": stop_words,
    }


def split_query(text: str) -> tuple[list[str], str]:
    """Return the quoted phrases of a query, and the rest of it."""
    phrases = [found[1] or found[2] or "" for found in _PHRASE.finditer(text)]
    phrases = [phrase for phrase in phrases if phrase.strip()]
    return (phrases, _PHRASE.sub(" ", text)) if phrases else ([], text)
