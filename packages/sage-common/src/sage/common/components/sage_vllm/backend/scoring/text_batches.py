"""TextBatches: texts that wait together are tokenised together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage.common.components.sage_vllm.backend.vllm_types import (
    RenderedText,
    Renderer,
    VLLMClasses,
)
from sage.common.components.sage_vllm.engine_contract import Prompt
from sage.common.components.sage_vllm.errors import InvalidRequestError, PromptTooLongError

TOO_MANY_TOKENS = "input_tokens"
TOO_LONG = (TOO_MANY_TOKENS, "input_text")
"""Which parameter vLLM says it refuses of a prompt that is too long: its tokens, or so many
characters that it is not tokenised at all."""

TEXT_TOO_LONG = (
    "split it by a TextSplitter, or have its end cut off: truncate=True of the call, the operator "
    "or get_embedding_model()"
)
"""What to do about such a text."""


class TextBatches:
    """The part of a renderer for texts that are not generated from."""

    _model_id: str
    _vllm: VLLMClasses
    _renderer: Renderer
    _max_model_len: int
    _vocabulary: int

    def count_tokens(self, prompt: Prompt, options: Mapping[str, Any]) -> int:
        """Return how many tokens a prompt has."""
        raise NotImplementedError

    def render_texts(self, texts: Sequence[tuple[str, bool]]) -> list[Any]:
        """Tokenise many texts together on all cores, and check them.

        Each text comes with whether to truncate it if it is too long, and becomes a RenderedText.
        What is wrong with a text takes its place.
        """
        try:
            return self._render_together(texts)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked for the text
            if len(texts) > 1:
                return [rendered for text in texts for rendered in self.render_texts([text])]
            if getattr(error, "parameter", None) in TOO_LONG:
                return [self._text_too_long(texts[0][0])]
            if isinstance(error, self._vllm.refusals):
                return [InvalidRequestError(self._model_id, str(error))]
            return [error]

    def _render_together(self, texts: Sequence[tuple[str, bool]]) -> list[Any]:
        renderer = self._renderer
        params, tokenizer = renderer.default_cmpl_tok_params, renderer.get_tokenizer()
        limit = params.max_total_tokens
        if params.do_lower_case:  # vLLM would do it in the check below, which not all texts see
            texts = [(text.lower(), truncate) for text, truncate in texts]
        # vLLM's own check refuses texts by their characters already, those to truncate too.
        prompts = [
            text
            if truncate
            else params.apply_pre_tokenization(tokenizer, {"prompt": text})["prompt"]
            for text, truncate in texts
        ]
        found = tokenizer(
            prompts,
            return_attention_mask=False,  # making lists of these takes longer than tokenising
            return_token_type_ids=False,
            **params.get_encode_kwargs(),
        )["input_ids"]
        for token_ids in found:
            check_known(self._model_id, token_ids, self._vocabulary)
        too_long = [limit is not None and len(token_ids) > limit for token_ids in found]
        for index, (text, truncate) in enumerate(texts):
            if too_long[index] and truncate:
                found[index] = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
        fits = [
            {"prompt_token_ids": token_ids}
            for token_ids, long, (_, truncate) in zip(found, too_long, texts, strict=True)
            if truncate or not long
        ]
        rendered = iter(renderer.render_cmpl(fits) if fits else ())
        return [
            RenderedText(next(rendered), long)
            if truncate or not long
            else self._text_too_long(text)
            for long, (text, truncate) in zip(too_long, texts, strict=True)
        ]

    def _text_too_long(self, text: str) -> PromptTooLongError:
        tokens = self.count_tokens(text, {})
        return PromptTooLongError(self._model_id, tokens, self._max_model_len, TEXT_TOO_LONG)


def check_known(model_id: str, token_ids: Sequence[int], vocabulary: int) -> None:
    """Refuse a token that the model has no vector for: an engine would die of it."""
    if token_ids and (largest := max(token_ids)) >= vocabulary:
        raise InvalidRequestError(
            model_id,
            f"token {largest} of the tokenizer is none of the {vocabulary} that {model_id!r} knows",
            hint="the tokenizer was extended, or is another model's: use the one that the model "
            "was trained with",
        )
