"""FirstOfEquals: what the first of several equal engines says for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage.common.components.sage_vllm.engine_abilities import ChecksOptions
from sage.common.components.sage_vllm.engine_contract import Engine
from sage.common.components.sage_vllm.errors import InvalidRequestError
from sage.common.components.sage_vllm.tokens import ReadsTokens


class FirstOfEquals:
    """The part of several engines that is one for all of them: they have one model."""

    _engines: list[Engine]

    def end_token(self) -> int | None:
        """Return the token that ends a text; see ReadsTokens."""
        return self._reader().end_token()

    def text_of(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens; see ReadsTokens."""
        return self._reader().text_of(token_ids, skip_special_tokens=skip_special_tokens)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise what an engine says of options, if they can; see ChecksOptions."""
        if isinstance(first := self._engines[0], ChecksOptions):
            first.check_options(options)

    def _reader(self) -> ReadsTokens:
        engine = self._engines[0]
        if not isinstance(engine, ReadsTokens):
            raise InvalidRequestError(engine.info.model_id, "its engine says no texts of tokens")
        return engine
