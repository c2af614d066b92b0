"""regex_example: the shortest text that a regular expression matches."""

from __future__ import annotations

import string
from collections import deque
from typing import Any

from sage.common.core.errors import PackageNotInstalledError

_CHARACTERS = string.digits + string.ascii_letters + string.punctuation + " \n\t"


def regex_example(pattern: str) -> str:
    """Return the shortest text that the pattern matches from its first character to its last.

    Always the same one: of texts of equal length digits go before letters. The text is made from
    the pattern's automaton, by outlines-core, which vLLM has for the same purpose; so patterns are
    in its dialect, without look-around or ``^`` and ``$``. It is empty only where nothing else
    matches.

    Raises:
        ValueError: the pattern is not valid, or matches nothing.
        PackageNotInstalledError: outlines-core is missing; ``isage-common[testing]`` has it.
    """
    try:
        from outlines_core import Index, Vocabulary
    except ImportError as error:
        extra = "isage-common[testing]"
        raise PackageNotInstalledError("outlines-core", extra, "for the option regex") from error
    characters = list(dict.fromkeys(_CHARACTERS + pattern))  # those outside ASCII, as they stand
    ids = {character: [number] for number, character in enumerate(characters)}
    index = Index(pattern, Vocabulary(len(characters), ids))
    return _shortest(index, characters)


def _shortest(index: Any, characters: list[str]) -> str:
    transitions: dict[int, dict[int, int]] = index.get_transitions()
    final: set[int] = index.get_final_states()
    start: int = index.get_initial_state()
    seen: set[int] = set()
    waiting = deque([(start, "")])
    while waiting:
        state, text = waiting.popleft()
        for token, follows in sorted(transitions.get(state, {}).items()):
            if token == len(characters):  # the end of the text
                continue
            if follows in final:
                return text + characters[token]
            if follows not in seen:
                seen.add(follows)
                waiting.append((follows, text + characters[token]))
    if start in final:
        return ""
    raise ValueError("it matches no text")
