"""LogprobCalls: what a service makes of log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Role
from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.requests.gather import wait_for
from sage.common.components.sage_vllm.requests.inputs import PromptItem
from sage.common.components.sage_vllm.requests.logprobs.beam_search import (
    BeamOptions,
    BeamSearchCall,
)
from sage.common.components.sage_vllm.requests.logprobs.loglikelihood import (
    LikelihoodCall,
    parse_pairs,
)
from sage.common.components.sage_vllm.requests.prompt_reader import PromptReader
from sage.common.components.sage_vllm.requests.result_types import BeamResult, LikelihoodResult
from sage.common.components.sage_vllm.requests.sampling_options import (
    REQUEST_OPTIONS,
    check_on_error,
)
from sage.common.core import awaiting
from sage.common.core.errors import nearest
from sage.common.core.futures import errors_in_future

_OF_PAIRS = frozenset({"lora", "model", "priority"})
_OF_PROMPTS = REQUEST_OPTIONS - {"cache", "deadline"}


class LogprobCalls:
    """The part of a VLLMService that weighs texts and searches for the likeliest."""

    _engines: EnginePool
    _prompts: PromptReader
    _check_open: Callable[[], None]

    def loglikelihood(self, pairs: Any, **options: Any) -> list[LikelihoodResult]:
        """Return how likely the text model finds given continuations.

        ::

            pairs = [("The capital of France is", " Paris"), ("The capital of France is", " Rome")]
            paris, rome = service.loglikelihood(pairs)
            print(paris["logprob"] > rome["logprob"], paris["is_greedy"])

        Args:
            pairs: a list of ``(context, continuation)``, both texts or both lists of token ids.
                What the tokens of both texts together have beyond the context's belongs to the
                continuation; so do blanks at the context's end. A context may be empty where the
                tokenizer puts a token before each text.
            options: ``model``, ``lora``, ``priority`` and ``on_error`` as of ``generate``.

        Returns:
            A dict per pair: ``logprob``, the sum over the continuation's tokens (natural
            logarithm), ``is_greedy``, whether each of them is the likeliest in its place,
            ``tokens`` (a list of ``{"token", "token_id", "logprob", "top"}``), ``tokens_used``,
            ``latency`` and ``model_id``.

        Raises:
            ValueError: a pair or an option is not valid; it says which.
            PromptTooLongError: a context and its continuation are too long together.
        """
        results: list[LikelihoodResult] = wait_for(self.loglikelihood_async(pairs, **options))
        return results

    @errors_in_future
    def loglikelihood_async(
        self, pairs: Any, *, on_error: str = "raise", **options: Any
    ) -> Future[list[LikelihoodResult]]:
        """Do the same, and return a Future; cancelling it aborts what is in the engine."""
        check_on_error(on_error)
        self._check_open()
        parsed = parse_pairs(pairs)
        _check_taken("loglikelihood", options, _OF_PAIRS)
        (item,) = self._prompts.read("a", options)  # which resolves what options name
        kept = {name: item.options[name] for name in _OF_PAIRS if name in item.options}
        call = LikelihoodCall(parsed, kept, return_errors=on_error == "return")
        return self._engines.adapters.during(
            [kept],
            lambda: self._engines.call(Role.GENERATE, call, model=item.model, work=len(parsed)),
        )

    async def aloglikelihood(self, pairs: Any, **options: Any) -> list[LikelihoodResult]:
        """Do the same without blocking the event loop."""
        return await awaiting.call(self.loglikelihood_async, pairs, **options)

    def beam_search(self, prompts: Any, **options: Any) -> list[BeamResult]:
        """Search the likeliest answers to prompts, as vLLM's offline ``LLM.beam_search`` does.

        Where sampling takes a token and never looks back, this keeps ``beam_width`` beginnings of
        an answer at each step: the best of all that are one token longer.

        Args:
            prompts: in the shapes of ``generate``; an item's options may be those below but
                ``model``.
            options: ``beam_width`` (4), of which twice as many log-probabilities are asked for:
                above 10 the engine needs ``max_logprobs``; ``max_tokens`` (64);
                ``length_penalty`` (1.0), the power of the length that scores are divided by;
                ``temperature`` (0), ``ignore_eos`` (False) and ``skip_special_tokens`` (True);
                ``model``, ``lora``, ``priority``, ``chat_template`` and ``on_error`` as of
                ``generate``.

        Returns:
            A dict per prompt: the best text's ``text``, ``finish_reason`` (``"stop"`` or
            ``"length"``), ``score``, ``logprob`` and ``token_ids``; ``choices``, these of all that
            were found, the best first; ``tokens_used``, ``latency`` and ``model_id``.

        Raises:
            ValueError: a prompt, its length, or an option is not valid; it says which.
        """
        results: list[BeamResult] = wait_for(self.beam_search_async(prompts, **options))
        return results

    @errors_in_future
    def beam_search_async(
        self,
        prompts: Any,
        *,
        beam_width: int = 4,
        max_tokens: int = 64,
        length_penalty: float = 1.0,
        temperature: float = 0.0,
        ignore_eos: bool = False,
        skip_special_tokens: bool = True,
        on_error: str = "raise",
        **options: Any,
    ) -> Future[list[BeamResult]]:
        """Do the same, and return a Future; cancelling it ends the search."""
        check_on_error(on_error)
        self._check_open()
        search = BeamOptions(
            beam_width=beam_width,
            max_tokens=max_tokens,
            length_penalty=length_penalty,
            temperature=temperature,
            ignore_eos=ignore_eos,
            skip_special_tokens=skip_special_tokens,
        )
        _check_taken("beam_search", options, _OF_PROMPTS)
        items = self._prompts.read(prompts, options)
        models = list({item.model: None for item in items}) or [options.get("model")]
        if len(models) > 1:
            problem = f"beam_search searches with one model, not with {models}"
            raise InvalidOptionError("model", models, problem, hint="call it once for each")
        call = BeamSearchCall(
            [PromptItem(item.prompt, _kept(item.options)) for item in items],
            search,
            return_errors=on_error == "return",
        )
        return self._engines.adapters.during(
            (item.options for item in items),
            lambda: self._engines.call(Role.GENERATE, call, model=models[0], work=len(items)),
        )

    async def abeam_search(self, prompts: Any, **options: Any) -> list[BeamResult]:
        """Do the same without blocking the event loop."""
        return await awaiting.call(self.beam_search_async, prompts, **options)


def _kept(options: Any) -> dict[str, Any]:
    """Return what makes tokens of a prompt; how they are sampled is the search's."""
    return {name: options[name] for name in _OF_PROMPTS if name in options}


def _check_taken(method: str, options: Any, taken: frozenset[str]) -> None:
    for name, value in options.items():
        if name not in taken:
            hint = nearest(str(name), sorted(taken))
            raise InvalidOptionError(name, value, f"{method} has no option {name!r}", hint=hint)
