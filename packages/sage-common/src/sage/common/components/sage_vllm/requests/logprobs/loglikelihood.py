"""LikelihoodCall: a call of ``loglikelihood``, ready to be started on the engine that serves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, cast

from sage.common.components.sage_vllm.engine_contract import Engine, Generation, Prompt
from sage.common.components.sage_vllm.errors import InvalidInputError, InvalidRequestError
from sage.common.components.sage_vllm.requests.gather import attempt, gather, then
from sage.common.components.sage_vllm.requests.inputs import are_token_ids, parse_prompts
from sage.common.components.sage_vllm.requests.result_types import LikelihoodResult
from sage.common.components.sage_vllm.requests.results import error_result, token_result
from sage.common.components.sage_vllm.tokens import TokenIds

_PASS = "pass a list of (context, continuation), both texts or both token ids"


class Pair(NamedTuple):
    """A context, and the prompt that is this context and its continuation."""

    context: Prompt
    whole: Prompt


class LikelihoodCall:
    """Starts its pairs on an engine, all or none.

    Args:
        pairs: what ``parse_pairs`` returns.
        options: ``lora`` and ``priority``, as of Engine.submit.
        return_errors: put a pair's error into its place, instead of ending the call with it.
    """

    def __init__(
        self, pairs: Sequence[Pair], options: Mapping[str, Any], *, return_errors: bool = False
    ) -> None:
        self._pairs = pairs
        # The token that is generated is nobody's: an engine makes no fewer than one.
        self._options = {**options, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 1}
        self._return_errors = return_errors
        self._began = time.perf_counter()

    def __call__(self, engine: Engine) -> Future[list[LikelihoodResult]]:
        """Submit the pairs; return a Future of what VLLMService.loglikelihood describes."""
        model_id = engine.info.model_id

        def start(pair: Pair) -> Future[LikelihoodResult]:
            return attempt(lambda: self._submit(engine, pair), return_errors=self._return_errors)

        def combine(results: Sequence[LikelihoodResult | Exception]) -> list[LikelihoodResult]:
            return [
                cast("LikelihoodResult", error_result(model_id, result))
                if isinstance(result, Exception)
                else result
                for result in results
            ]

        started = map(start, self._pairs)
        return gather(started, combine, return_errors=self._return_errors, item="pair")

    def _submit(self, engine: Engine, pair: Pair) -> Future[LikelihoodResult]:
        model_id, context = engine.info.model_id, pair.context
        length = len(context) if isinstance(context, TokenIds) else engine.count_tokens(context)
        if not length:
            raise InvalidRequestError(
                model_id,
                "the continuation has nothing before it, and its first token no probability",
                hint="give it a context; the token that ends texts is a usual one",
            )

        def weighed(generation: Generation) -> LikelihoodResult:
            return self._result(model_id, generation, length)

        return then(engine.submit(pair.whole, self._options), weighed)

    def _result(self, model_id: str, generation: Generation, context: int) -> LikelihoodResult:
        if generation.prompt_logprobs is None:
            raise InvalidRequestError(model_id, "its engine gives no log-probabilities of prompts")
        tokens = [each for each in generation.prompt_logprobs[context:] if each is not None]
        if not tokens:
            problem = "the continuation adds no token to its context's"
            raise InvalidRequestError(model_id, problem, hint="give the pair as token ids")
        count = generation.prompt_token_count
        return {
            "logprob": sum(each.logprob for each in tokens),
            # One that is as likely as the likeliest is greedy too: which of them is, is chance.
            "is_greedy": all(each.logprob >= max(each.by_id.values()) for each in tokens),
            "tokens": [token_result(each) for each in tokens],
            "tokens_used": {"prompt": count, "total": count},
            "latency": time.perf_counter() - self._began,
            "model_id": model_id,
        }


def parse_pairs(pairs: Any) -> list[Pair]:
    """Return the pairs that ``loglikelihood`` is given; raises InvalidInputError with the position.

    Blanks at a context's end go over to its continuation: tokens begin with blanks.
    """
    if isinstance(pairs, str | bytes | Mapping) or not isinstance(pairs, Sequence):
        raise InvalidInputError(pairs, f"pairs must be a list, not {pairs!r}", hint=_PASS)
    return [_parse_pair(pair, f"pair {index}") for index, pair in enumerate(pairs)]


def _parse_pair(pair: Any, which: str) -> Pair:
    if isinstance(pair, str | bytes) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise InvalidInputError(pair, f"{which} must be two, not {pair!r}", hint=_PASS)
    context, continuation = pair
    if isinstance(context, str) and isinstance(continuation, str):
        if not continuation:
            raise InvalidInputError(pair, f"{which} has an empty continuation")
        kept = context.rstrip()
        (whole,) = parse_prompts([context + continuation])
        return Pair(kept, whole.prompt)
    if are_token_ids(continuation) and (are_token_ids(context) or _is_empty(context)):
        (whole,) = parse_prompts([[*context, *continuation]])
        return Pair(TokenIds(context), whole.prompt)
    raise InvalidInputError(pair, f"{which} is neither two texts nor tokens: {pair!r}", hint=_PASS)


def _is_empty(context: Any) -> bool:
    return isinstance(context, Sequence) and not isinstance(context, str | bytes) and not context
