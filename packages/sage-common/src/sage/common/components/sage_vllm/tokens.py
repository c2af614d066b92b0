"""Tokens: prompts made of them, how likely they are, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


class TokenIds(list[int]):
    """A prompt that is tokens of the model already."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """A token, its log-probability, and those of the tokens that were asked for in its place.

    ``top`` has these by their texts, of which two tokens may have the same, ``by_id`` by their ids.
    """

    token: str
    token_id: int
    logprob: float
    top: Mapping[str, float]
    by_id: Mapping[int, float]


@runtime_checkable
class ReadsTokens(Protocol):
    """What an engine may do besides: say what its model's tokens mean."""

    def end_token(self) -> int | None:
        """Return the token that ends a text; None if the model has none."""
        ...

    def text_of(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens that stand behind others."""
        ...
