"""TokenReader: what the tokens of a model mean, and which it has."""

from __future__ import annotations

from collections.abc import Sequence

from sage.common.components.sage_vllm.backend.answer_text import token_texts_of
from sage.common.components.sage_vllm.backend.vllm_types import LLMEngine
from sage.common.components.sage_vllm.errors import InvalidRequestError
from sage.common.components.sage_vllm.tokens import TokenIds


class TokenReader:
    """Knows the tokens of an engine's model; see ReadsTokens."""

    def __init__(self, model_id: str, engine: LLMEngine) -> None:
        self._model_id = model_id
        self._renderer = engine.renderer
        self._vocabulary = engine.model_config.get_vocab_size()

    def check(self, token_ids: TokenIds) -> None:
        """Raise InvalidRequestError for tokens that the model does not have."""
        for index, token_id in enumerate(token_ids):
            if not 0 <= token_id < self._vocabulary:
                raise InvalidRequestError(
                    self._model_id,
                    f"token {index} of the prompt is {token_id}, and {self._model_id!r} has the "
                    f"tokens 0 to {self._vocabulary - 1}",
                    hint="make the ids with the model's own tokenizer",
                )

    def end_token(self) -> int | None:
        """Return the token that ends a text; None if the model has none."""
        return self._renderer.get_eos_token_id()

    def text_of(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens that stand behind others."""
        tokenizer = self._renderer.get_tokenizer()
        if (fast := getattr(tokenizer, "backend_tokenizer", None)) is not None:
            texts = token_texts_of(fast)
            return texts.text_of(list(token_ids), special=not skip_special_tokens)
        text: str = tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text
