"""ScoringRenderer: makes of texts, pairs and conversations what an engine with a head takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage.common.components.sage_vllm.backend.scoring.text_batches import TEXT_TOO_LONG, check_known
from sage.common.components.sage_vllm.backend.vllm_renderer import VLLMRenderer
from sage.common.components.sage_vllm.backend.vllm_types import (
    LLMEngine,
    RenderedText,
    VLLMClasses,
)
from sage.common.components.sage_vllm.engine_contract import Prompt, TextPair
from sage.common.components.sage_vllm.errors import InvalidRequestError, PromptTooLongError

Text = str | TextPair


class ScoringRenderer(VLLMRenderer):
    """Renders requests for a model with a head, on any thread; arguments as of VLLMRenderer."""

    def __init__(
        self,
        model_id: str,
        engine: LLMEngine,
        vllm: VLLMClasses,
        *,
        tool_parser: str | None = None,
    ) -> None:
        super().__init__(model_id, engine, vllm, tool_parser=tool_parser)
        config = engine.model_config
        asked = getattr(self._renderer.get_tokenizer(), "model_input_names", ())
        # Some reward models have a head that speaks at each token; the last one counts.
        self._task = "classify" if "classify" in engine.get_supported_tasks() else "token_classify"
        self._joins_pairs = not config.use_sep_token
        # Other tokenizers tell the two texts of a pair apart as well, and their models do not.
        told_apart = getattr(config.hf_config, "type_vocab_size", 1) or 1
        self._marks_second = told_apart > 1 and "token_type_ids" in asked
        names: dict[int, str] = getattr(config.hf_config, "id2label", None) or {}
        self._names = names
        self._scoring_params: dict[bool, Any] = {}

    def classes(self, count: int) -> tuple[str, ...]:
        """Return the names of a head's numbers, of which there are so many."""
        return tuple(str(self._names.get(index, f"LABEL_{index}")) for index in range(count))

    def proof_params(self) -> Any:
        """Return the parameters of the shortest work that there is."""
        return self.scoring_params(activation=True)

    def scoring_params(self, *, activation: bool) -> Any:
        """Return vLLM's PoolingParams for a head's numbers: one object for all that are alike."""
        if activation not in self._scoring_params:
            self._scoring_params[activation] = self._vllm.SharedPoolingParams(
                task=self._task, use_activation=activation
            )
        return self._scoring_params[activation]

    def one_text(self, pair: TextPair, chat_template: str | None) -> Text:
        """Return a pair as the model reads it: as one text by a template, or where it joins them.

        Raises InvalidRequestError for a template that does not render.
        """
        if chat_template is None:
            return pair[0] + pair[1] if self._joins_pairs else pair
        said = [
            {"role": role, "content": text}
            for role, text in zip(("query", "document"), pair, strict=True)
        ]
        try:
            rendered: str = self._vllm.safe_apply_chat_template(
                self._model_config,
                self._renderer.get_tokenizer(),
                said,
                chat_template=chat_template,
                tools=None,
                tokenize=False,
            )
        except self._vllm.refusals as error:
            problem = f"the template of pairs does not render: {error}"
            hint = "it has the messages of the roles 'query' and 'document'"
            raise InvalidRequestError(self._model_id, problem, hint=hint) from error
        return rendered

    def render_answered(self, conversation: Prompt, chat_template: str | None) -> Any:
        """Render a conversation that ends with an answer: nobody is to speak next."""
        told = {"add_generation_prompt": False}
        return self.render(conversation, {"chat_template": chat_template, "template_options": told})

    def _render_together(self, texts: Sequence[tuple[Text, bool]]) -> list[Any]:
        pairs = [(text, cut) for text, cut in texts if not isinstance(text, str)]
        single = [(text, cut) for text, cut in texts if isinstance(text, str)]
        of_pairs = iter(self._render_pairs(pairs) if pairs else ())
        others = iter(super()._render_together(single) if single else ())
        return [next(others if isinstance(text, str) else of_pairs) for text, _ in texts]

    def _render_pairs(self, pairs: Sequence[tuple[TextPair, bool]]) -> list[Any]:
        """Tokenise pairs together; the result is as of ``_render_together``."""
        params, tokenizer = self._renderer.default_cmpl_tok_params, self._renderer.get_tokenizer()
        limit = params.max_total_tokens
        if params.do_lower_case:
            pairs = [((first.lower(), second.lower()), cut) for (first, second), cut in pairs]
        for (first, second), truncate in pairs:
            if not truncate:  # refused by its characters already: see VLLMRenderer
                params.apply_pre_tokenization(tokenizer, {"prompt": first + second})
        found = self._tokenise([pair for pair, _ in pairs], params.get_encode_kwargs())
        too_long = [limit is not None and len(tokens) > limit for tokens, _ in found]
        for index, (pair, truncate) in enumerate(pairs):
            if too_long[index] and truncate:
                (found[index],) = self._tokenise([pair], {"truncation": True, "max_length": limit})
            check_known(self._model_id, found[index][0], self._vocabulary)
        refused = [is_long and not cut for is_long, (_, cut) in zip(too_long, pairs, strict=True)]
        fits = [
            {"prompt_token_ids": tokens}
            for (tokens, _), is_refused in zip(found, refused, strict=True)
            if not is_refused
        ]
        inputs = iter(self._renderer.render_cmpl(fits) if fits else ())
        return [
            self._text_too_long(pair)
            if is_refused
            else RenderedText(next(inputs), is_long, second_at)
            for (pair, _), (_, second_at), is_long, is_refused in zip(
                pairs, found, too_long, refused, strict=True
            )
        ]

    def _tokenise(
        self, pairs: Sequence[TextPair], arguments: dict[str, Any]
    ) -> list[tuple[list[int], int | None]]:
        """Return the tokens of each pair, and where its second text begins, if the model asks."""
        encoded = self._renderer.get_tokenizer()(
            [first for first, _ in pairs],
            [second for _, second in pairs],
            return_attention_mask=False,
            return_token_type_ids=self._marks_second,
            **arguments,
        )
        tokens: list[list[int]] = encoded["input_ids"]
        if not self._marks_second:
            return [(each, None) for each in tokens]
        kinds: list[list[int]] = encoded["token_type_ids"]
        begins = [each.index(1) if 1 in each else len(each) for each in kinds]
        return list(zip(tokens, begins, strict=True))

    def _text_too_long(self, text: Text) -> PromptTooLongError:
        if isinstance(text, str):
            tokens = self.count_tokens(text, {})
        else:
            tokens = len(self._renderer.get_tokenizer()(*text)["input_ids"])
        return PromptTooLongError(self._model_id, tokens, self._max_model_len, TEXT_TOO_LONG)
