"""The shapes of what VLLMService accepts and returns, for editors and type checkers.

They are plain dicts when a program runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict


class TokensUsed(TypedDict):
    """How many tokens went in and came out; ``completion`` is of generations alone.

    ``reasoning`` says how many of those were thinking, of a model that thinks.
    """

    prompt: int
    completion: NotRequired[int]
    reasoning: NotRequired[int]
    total: int


class TokenResult(TypedDict):
    """A token, its log-probability, and those of the likeliest tokens in its place.

    With ``logprob_token_ids`` those of these ids are in ``by_id`` too: texts of two may be equal.
    """

    token: str
    token_id: int
    logprob: float
    top: dict[str, float]
    by_id: NotRequired[dict[int, float]]


class ToolCallResult(TypedDict):
    """A call of a tool; arguments that are no JSON object stay the text that the model wrote."""

    id: str
    name: str
    arguments: Mapping[str, Any] | str


class ErrorResult(TypedDict):
    """What became of a prompt that failed under ``on_error="return"``."""

    type: str
    message: str


class Choice(TypedDict):
    """One of the ``n`` texts of a prompt.

    ``finish_reason`` is ``"stop"``, ``"length"``, ``"deadline"``, ``"tool_calls"``, or with
    ``repetition_detection`` ``"repetition"``. ``parsed`` is there with ``json_schema`` or
    ``json_object``, None if the text was cut off; ``logprobs`` where they were asked for.
    ``reasoning`` is what a model thought that thinks, None if it did not this time;
    ``tool_calls`` are there where tools were offered, an empty list if it asked for none.
    """

    text: str
    finish_reason: str
    reasoning: NotRequired[str | None]
    tool_calls: NotRequired[list[ToolCallResult]]
    parsed: NotRequired[Any]
    logprobs: NotRequired[list[TokenResult]]


class GenerateResult(Choice):
    """What ``generate`` returns for a prompt; ``latency`` is in seconds.

    ``choices`` is there with ``n`` above 1, ``cached`` if a cache had the answer.
    ``prompt_logprobs`` is there where they were asked for; its first entry is None, since nothing
    is before the first token. Under ``on_error="return"`` a prompt that failed has ``error`` and
    ``model_id``, and nothing else.
    """

    tokens_used: TokensUsed
    latency: float
    model_id: str
    request_id: str
    prompt_logprobs: NotRequired[list[TokenResult | None]]
    choices: NotRequired[list[Choice]]
    cached: NotRequired[bool]
    error: NotRequired[ErrorResult]


class LikelihoodResult(TypedDict):
    """What ``loglikelihood`` returns for a pair; ``latency`` is in seconds.

    ``logprob`` is the sum over the continuation's ``tokens``, ``is_greedy`` whether each of them is
    the likeliest in its place. ``error`` as of GenerateResult.
    """

    logprob: float
    is_greedy: bool
    tokens: list[TokenResult]
    tokens_used: TokensUsed
    latency: float
    model_id: str
    error: NotRequired[ErrorResult]


class Beam(TypedDict):
    """One of the texts that a beam search found.

    ``logprob`` is the sum over its ``token_ids``, ``score`` what the beams are sorted by.
    """

    text: str
    finish_reason: str
    score: float
    logprob: float
    token_ids: list[int]


class BeamResult(Beam):
    """What ``beam_search`` returns for a prompt: the best text, and all of them as ``choices``.

    ``tokens_used`` counts the tokens of these texts; ``latency`` is in seconds. ``error`` as of
    GenerateResult.
    """

    choices: list[Beam]
    tokens_used: TokensUsed
    latency: float
    model_id: str
    error: NotRequired[ErrorResult]


class EmbedError(TypedDict):
    """What is wrong with the text of this ``index``."""

    index: int
    type: str
    message: str


class EmbedResult(TypedDict):
    """What ``embed`` returns: a vector of ``dim`` floats per text; ``latency`` is in seconds.

    With ``truncate=True`` it says how many texts were ``truncated``, with a cache how many vectors
    were ``cached``; with ``on_error="return"`` the vector of a text that has one of the ``errors``
    is None.
    """

    vectors: list[list[float]]
    dim: int
    model_id: str
    tokens_used: TokensUsed
    latency: float
    truncated: NotRequired[int]
    cached: NotRequired[int]
    errors: NotRequired[list[EmbedError]]


class ProcessPayload(TypedDict):
    """What ``process`` accepts; which tasks have inputs, and which options, its docstring says."""

    task: Literal[
        "generate",
        "embed",
        "score",
        "rerank",
        "classify",
        "reward",
        "loglikelihood",
        "beam_search",
        "fine_tune",
        "fine_tune_jobs",
        "cancel_fine_tune",
        "show_models",
        "download_model",
        "delete_model",
        "switch_model",
        "stats",
        "health",
    ]
    inputs: NotRequired[Any]
    options: NotRequired[Mapping[str, Any]]
