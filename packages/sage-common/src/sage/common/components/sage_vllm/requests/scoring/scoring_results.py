"""The shapes of what score, rerank, classify and reward return, and the making of them.

They are plain dicts when a program runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict, cast

from sage.common.components.sage_vllm.engine_contract import Classification, EngineInfo, Likelihood
from sage.common.components.sage_vllm.errors import InvalidRequestError
from sage.common.components.sage_vllm.requests.result_types import EmbedError, TokensUsed


class _Result(TypedDict):
    model_id: str
    tokens_used: TokensUsed
    latency: float
    truncated: NotRequired[int]
    errors: NotRequired[list[EmbedError]]


class ScoreResult(_Result):
    """What ``score`` and ``reward`` return: a number per text or conversation.

    ``latency`` is in seconds. With ``truncate=True`` it says how many texts were ``truncated``;
    with ``on_error="return"`` the score of a text that has one of the ``errors`` is None.
    """

    scores: list[float]


class RankedText(TypedDict):
    """A text by its ``index`` in the call, and its score."""

    index: int
    score: float
    text: str


class RerankResult(_Result):
    """What ``rerank`` returns: the best texts, best first; the rest as of ScoreResult."""

    results: list[RankedText]


class ClassifyResult(_Result):
    """What ``classify`` returns; the rest as of ScoreResult.

    For each text ``labels`` has the likeliest class, ``scores`` its probability, and
    ``probabilities`` those of all ``classes``, in their order. ``logprobs`` are there with
    ``labels=``: the log-probability of each label as the model's answer.
    """

    labels: list[str]
    scores: list[float]
    classes: list[str]
    probabilities: list[list[float]]
    logprobs: NotRequired[list[list[float]]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a call's inputs: what was found of each, or its error."""

    info: EngineInfo
    found: Sequence[Classification | Likelihood | Exception]
    truncated: int | None  # None where nothing was to be cut
    return_errors: bool
    latency: float

    def rest(self) -> dict[str, Any]:
        """Return what all results have."""
        made = [each for each in self.found if not isinstance(each, Exception)]
        tokens = sum(each.token_count for each in made)
        result: dict[str, Any] = {
            "model_id": self.info.model_id,
            "tokens_used": {"prompt": tokens, "total": tokens},
            "latency": self.latency,
        }
        if self.truncated is not None:
            result["truncated"] = self.truncated
        if self.return_errors:
            result["errors"] = [
                {"index": index, "type": type(each).__name__, "message": str(each)}
                for index, each in enumerate(self.found)
                if isinstance(each, Exception)
            ]
        return result

    def values(self) -> list[Sequence[float] | None]:
        """Return the numbers of each input, None for an error; raises InvalidRequestError."""
        return [self._numbers(index, each) for index, each in enumerate(self.found)]

    def _numbers(
        self, index: int, found: Classification | Likelihood | Exception
    ) -> Sequence[float] | None:
        if isinstance(found, Exception):
            return None
        values = found.values if isinstance(found, Classification) else found.logprobs
        if any(map(math.isnan, values)):
            problem = f"text {index}: the model computes what is no number (NaN)"
            hint = "load it in another dtype: engine={'dtype': 'float32'}"
            raise InvalidRequestError(self.info.model_id, problem, hint=hint)
        return values


def score_result(outcome: Outcome) -> ScoreResult:
    """Return the dict that VLLMService.score describes."""
    scores = [None if values is None else values[0] for values in outcome.values()]
    return cast("ScoreResult", {"scores": scores, **outcome.rest()})


def rerank_result(outcome: Outcome, texts: Sequence[str], top_n: int | None) -> RerankResult:
    """Return the dict that VLLMService.rerank describes; equal scores stay in their order."""
    ranked = [
        (values[0], index) for index, values in enumerate(outcome.values()) if values is not None
    ]
    ranked.sort(key=lambda each: -each[0])
    results = [
        {"index": index, "score": score, "text": texts[index]} for score, index in ranked[:top_n]
    ]
    return cast("RerankResult", {"results": results, **outcome.rest()})


def classify_result(outcome: Outcome) -> ClassifyResult:
    """Return the dict that VLLMService.classify describes, of a model with a head."""
    return _classified(outcome, list(outcome.info.classes), outcome.values())


def labels_result(outcome: Outcome, labels: Sequence[str]) -> ClassifyResult:
    """Return the same of a text model that was asked for these labels."""
    logprobs = outcome.values()
    shares = [None if each is None else _softmax(each) for each in logprobs]
    result = _classified(outcome, list(labels), shares)
    return cast("ClassifyResult", {**result, "logprobs": logprobs})


def _classified(
    outcome: Outcome, classes: list[str], shares: Sequence[Sequence[float] | None]
) -> ClassifyResult:
    best = [
        None if each is None else max(range(len(each)), key=each.__getitem__) for each in shares
    ]
    result = {
        "labels": [None if index is None else classes[index] for index in best],
        "scores": [
            None if index is None or each is None else each[index]
            for index, each in zip(best, shares, strict=True)
        ],
        "classes": classes,
        "probabilities": shares,
    }
    return cast("ClassifyResult", {**result, **outcome.rest()})


def _softmax(logprobs: Sequence[float]) -> list[float]:
    most = max(logprobs)
    weights = [math.exp(each - most) for each in logprobs]
    return [weight / sum(weights) for weight in weights]
