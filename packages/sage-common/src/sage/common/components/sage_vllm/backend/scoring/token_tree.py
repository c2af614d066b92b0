"""TokenTree: texts that may follow a prompt, branch by branch of their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_MOST_AT_ONCE = 128  # tokens that vLLM tells the log-probabilities of in one place


class TokenTree:
    """Says what has to be asked to know how likely each of several texts is.

    The log-probability of a text is the sum over its tokens, each after the ones before it. Texts
    that begin alike share what is asked. ``questions`` are pairs of the tokens behind the prompt
    and those that may follow them. Texts of one token each are one question.

    Args:
        texts: each text's tokens. None begins with all the tokens of another.
    """

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self._texts = [tuple(tokens) for tokens in texts]
        following: dict[tuple[int, ...], dict[int, None]] = {}
        for tokens in self._texts:
            for index, token in enumerate(tokens):
                following.setdefault(tokens[:index], {})[token] = None
        self.questions = [
            (before, some)
            for before, tokens in following.items()
            for some in _in_parts(list(tokens), _MOST_AT_ONCE)
        ]

    @property
    def depth(self) -> int:
        """How many tokens stand behind the prompt in the longest question."""
        return max((len(before) for before, _ in self.questions), default=0)

    def sums(self, answers: Sequence[Mapping[int, float]]) -> list[float]:
        """Return each text's log-probability from those of the tokens asked for."""
        known = {
            (*before, token): answer[token]
            for (before, tokens), answer in zip(self.questions, answers, strict=True)
            for token in tokens
        }
        return [
            sum(known[tokens[: index + 1]] for index in range(len(tokens)))
            for tokens in self._texts
        ]


def _in_parts(tokens: list[int], size: int) -> list[list[int]]:
    return [tokens[first : first + size] for first in range(0, len(tokens), size)]
