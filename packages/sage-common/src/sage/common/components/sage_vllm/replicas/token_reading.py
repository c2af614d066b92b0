"""FirstReadsTokens: what tokens mean, as the first of several equal engines says."""

from __future__ import annotations

from collections.abc import Sequence

from sage.common.components.sage_vllm.engine_contract import Engine
from sage.common.components.sage_vllm.errors import InvalidRequestError
from sage.common.components.sage_vllm.tokens import ReadsTokens


class FirstReadsTokens:
    """The part of several engines that is one for all of them: they have one tokenizer."""

    _engines: list[Engine]

    def end_token(self) -> int | None:
        """Return the token that ends a text; see ReadsTokens."""
        return self._reader().end_token()

    def text_of(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens; see ReadsTokens."""
        return self._reader().text_of(token_ids, skip_special_tokens=skip_special_tokens)

    def _reader(self) -> ReadsTokens:
        engine = self._engines[0]
        if not isinstance(engine, ReadsTokens):
            raise InvalidRequestError(engine.info.model_id, "its engine says no texts of tokens")
        return engine
