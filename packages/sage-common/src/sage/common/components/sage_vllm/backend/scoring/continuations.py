"""Continuations: makes of texts that may follow a prompt what an engine is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage.common.components.sage_vllm.backend.scoring.token_tree import TokenTree
from sage.common.components.sage_vllm.backend.vllm_types import Renderer, VLLMClasses
from sage.common.components.sage_vllm.engine_contract import Prompt
from sage.common.components.sage_vllm.errors import InvalidRequestError

_MOST_TREES = 64  # that are kept: most calls ask for the same texts again


class Continuations:
    """Splits texts into the tokens that they have behind a prompt; on any thread.

    Args:
        model_id: named in errors.
        renderer: vLLM's, which has the model's tokenizer.
        vllm: the classes of vLLM that requests are made with.
    """

    def __init__(self, model_id: str, renderer: Renderer, vllm: VLLMClasses) -> None:
        self._model_id = model_id
        self._renderer = renderer
        self._vllm = vllm
        self._trees: dict[tuple[str, ...], TokenTree] = {}

    def tree(self, prompt: Prompt, texts: Sequence[str]) -> TokenTree:
        """Return the tokens of texts behind a prompt.

        Raises InvalidRequestError for a text without tokens, and for one that begins with another:
        it could never be the likelier of the two.
        """
        # A tokenizer may begin a text as it begins a word: so it gets one to begin with.
        before = prompt[-1:] if isinstance(prompt, str) else "\n"
        key = (before, *texts)
        if (known := self._trees.get(key)) is not None:
            return known
        found = [self._tokens_behind(before, text) for text in texts]
        self._check(texts, found)
        if len(self._trees) >= _MOST_TREES:
            self._trees.clear()
        tree = self._trees[key] = TokenTree(found)
        return tree

    def reading_params(self, tokens: Sequence[int]) -> Any:
        """Return vLLM's SamplingParams of a request for the log-probabilities of these tokens."""
        return self._vllm.SamplingParams(
            max_tokens=1,
            temperature=0,
            logprob_token_ids=list(tokens),
            detokenize=False,
            output_kind=self._vllm.RequestOutputKind.FINAL_ONLY,
        )

    def _tokens_behind(self, before: str, text: str) -> list[int]:
        first, whole = self._encode(before), self._encode(before + text)
        return whole[len(first) :] if whole[: len(first)] == first else self._encode(text)

    def _encode(self, text: str) -> list[int]:
        tokenizer = self._renderer.get_tokenizer()
        tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return tokens

    def _check(self, texts: Sequence[str], found: Sequence[list[int]]) -> None:
        for text, tokens in zip(texts, found, strict=True):
            if not tokens:
                raise InvalidRequestError(self._model_id, f"{text!r} has no tokens")
            for other, longer in zip(texts, found, strict=True):
                if other is not text and longer[: len(tokens)] == tokens:
                    problem = f"{other!r} begins with {text!r}, which is therefore always likelier"
                    hint = "end both with a full stop, or choose other words"
                    raise InvalidRequestError(self._model_id, problem, hint=hint)
