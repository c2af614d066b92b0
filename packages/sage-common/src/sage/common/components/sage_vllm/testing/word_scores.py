"""What EchoEngine says of texts, pairs and labels: by their words, the same each time."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence

from sage.common.components.sage_vllm.engine_contract import EngineSpec, TextPair
from sage.common.components.sage_vllm.planning.model_files import read_config

_SHARPNESS = 4.0  # of the numbers, before they go through an activation


def read_classes(spec: EngineSpec) -> tuple[str, ...]:
    """Return the classes that a model's ``config.json`` names; a single one if it names none."""
    names = read_config(spec.model_id, spec.path).get("id2label") or {"0": "LABEL_0"}
    return tuple(str(names[index]) for index in sorted(names, key=int))


def word_scores(
    words: Sequence[str], pair: TextPair | None, classes: Sequence[str], *, activation: bool
) -> list[float]:
    """Return a number for each class: the more, the more often the words have the class's name.

    With a single class it is the share of the query's words that are in the text of a ``pair``;
    of a text alone, a number that depends on it. With ``activation`` they are between 0 and 1.
    """
    if len(classes) == 1:
        share = _hash_share(" ".join(words)) if pair is None else _shared_words(pair)
        value = _SHARPNESS * (2 * share - 1)
        return [1 / (1 + math.exp(-value)) if activation else value]
    values = [_SHARPNESS * weight for weight in _weights(words, classes)]
    if not activation:
        return values
    total = sum(map(math.exp, values))
    return [math.exp(value) / total for value in values]


def word_logprobs(words: Sequence[str], texts: Sequence[str]) -> list[float]:
    """Return a log-probability for each text: the more, the more often the words have it."""
    values = [_SHARPNESS * weight for weight in _weights(words, texts)]
    total = math.log(1 + sum(map(math.exp, values)))
    return [value - total for value in values]


def _weights(words: Sequence[str], names: Sequence[str]) -> list[float]:
    said = _plain(words)
    text = " ".join(words)
    return [
        sum(said.count(word) for word in _plain(name.split())) + _hash_share(f"{name} {text}") / 8
        for name in names
    ]


def _shared_words(pair: TextPair) -> float:
    asked, said = (_plain(text.split()) for text in pair)
    return len({*asked} & {*said}) / max(1, len({*asked}))


def _plain(words: Sequence[str]) -> list[str]:
    return [plain for word in words if (plain := re.sub(r"\W", "", word).lower())]


def _hash_share(text: str) -> float:
    """Return a number from 0 to 1 that depends on a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32
