"""EngineRequest: one request of a SharedEngine, from a caller's submit to its Future's result."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from copy import copy
from dataclasses import replace
from typing import Any

from sage.common.components.sage_vllm.backend.chat.answer_reader import AnswerReader
from sage.common.components.sage_vllm.engine_contract import (
    Classification,
    Completion,
    Embedding,
    Generation,
    OnText,
)
from sage.common.components.sage_vllm.tokens import TokenLogprob

_NOTHING = Completion(text="", finish_reason="deadline", token_count=0)
_JOINING = threading.Lock()  # held for moments, so that one does for all requests


class EngineRequest:
    """What the engine needs to work on a request, and to work on it again after a crash.

    Others may join it, who made an equal request: each has a Future of its own, and the request is
    worked on until all of them have cancelled theirs.
    """

    __slots__ = (
        "_joined",
        "_over",
        "arguments",
        "crashes",
        "deadline",
        "future",
        "id",
        "input",
        "on_text",
        "params",
        "prompt_logprobs",
        "reader",
        "started",
        "stream",
        "text",
        "to_result",
        "truncate",
        "truncated",
        "unfinished",
    )

    def __init__(
        self,
        request_id: str,
        engine_input: Any,
        params: Any,
        to_result: Callable[[EngineRequest, Any], tuple[Any, int, int]],
        *,
        arguments: Mapping[str, Any] | None = None,
        deadline: float | None = None,
        on_text: OnText | None = None,
        truncate: bool = False,
        reader: AnswerReader | None = None,
    ) -> None:
        self.id = request_id
        self.input = engine_input
        self.params = params
        self.to_result = to_result
        self.arguments = arguments or {}
        self.on_text = on_text
        self.reader = reader  # of an answer that is more than its text
        self.stream = None if reader is None or on_text is None else reader.stream()
        self.truncate = truncate  # a text that is too long
        self.truncated = False
        self.future: Future[Any] = Future()
        self._joined: list[tuple[Future[Any], float]] = []  # with when they came
        self._over = False  # it has an outcome, or nobody wants one any more
        self.started = time.perf_counter()
        self.deadline = None if deadline is None else self.started + deadline
        self.crashes = 0  # engines that died while they worked on it
        self.text = ""  # what on_text has been given
        self.unfinished: dict[int, Any] = {}  # vLLM's latest completions, by index
        self.prompt_logprobs: Any = None  # vLLM's, where they were asked for

    @property
    def is_text(self) -> bool:
        """Whether its input is a text, or a pair of texts, that is still to be tokenised."""
        return isinstance(self.input, str | tuple)

    @property
    def incremental(self) -> bool:
        """Whether its output is looked at before it is finished."""
        return self.on_text is not None or self.deadline is not None

    def note(self, output: Any) -> bool:
        """Take in an incremental output; return False if it contradicts text already given out."""
        self.prompt_logprobs = output.prompt_logprobs
        for completion in output.outputs:
            self.unfinished[completion.index] = completion
        if self.on_text is None:
            return True
        text = self.unfinished[0].text
        if not text.startswith(self.text):
            # Generated again after a crash: this much is behind what the caller has seen,
            # or it took another turn.
            return self.text.startswith(text) and not output.finished
        if len(text) > len(self.text) or (output.finished and self.stream is not None):
            self._give_out(text, finished=output.finished)
        return True

    def end_stream(self) -> None:
        """Give out what a reader has held back of a text that ends where it is."""
        if self.stream is not None and self.unfinished:
            self._give_out(self.unfinished[0].text, finished=True)

    def _give_out(self, text: str, *, finished: bool) -> None:
        if self.on_text is None:
            return
        pieces = [new] if (new := text[len(self.text) :]) else []
        if self.stream is not None:
            pieces = self.stream.feed(new, self.unfinished[0].token_ids, finished=finished)
        for piece in pieces:
            self.on_text(piece)
        self.text = text

    def join(self) -> Future[Any] | None:
        """Return a Future of this request's result for one more caller; None if it is over."""
        with _JOINING:
            if self._over:
                return None
            future: Future[Any] = Future()
            self._joined.append((future, time.perf_counter()))
        return future

    def give_up(self) -> bool:
        """Note that a Future was cancelled; return whether nobody wants the result any more."""
        with _JOINING:
            self._over = self.unwanted
            return self._over

    @property
    def unwanted(self) -> bool:
        """Whether all who wanted the result have cancelled their Futures."""
        return self.future.cancelled() and all(each.cancelled() for each, _ in self._joined)

    def succeed(self, result: Any) -> None:
        """Complete the Futures that were not cancelled."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(result)
        for future, came in self._end():
            if future.set_running_or_notify_cancel():
                own = result
                if isinstance(result, Generation):  # a vector has no latency
                    own = replace(result, latency=time.perf_counter() - came)
                future.set_result(own)

    def fail(self, error: Exception) -> None:
        """Complete the Futures that were not cancelled with an error."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)
        for future, _ in self._end():
            if future.set_running_or_notify_cancel():
                future.set_exception(copy(error))  # each caller's own traceback goes into its own

    def _end(self) -> list[tuple[Future[Any], float]]:
        with _JOINING:
            self._over = True
            return self._joined


def to_generation(request: EngineRequest, output: Any) -> tuple[Generation, int, int]:
    """Return a finished request's result and its numbers of prompt and completion tokens.

    Without an output, the result is what there is at its deadline. Raises InvalidRequestError for
    an answer that cannot be read.
    """
    reader = request.reader
    given = request.prompt_logprobs if request.incremental else output.prompt_logprobs
    if request.incremental:
        if output is None:
            request.end_stream()
        of = request.unfinished  # at its deadline, some may not have begun
        outputs: list[Any] = [of.get(index) for index in range(request.params.n)]
    else:
        outputs = sorted(output.outputs, key=lambda each: each.index)
    found = [_NOTHING if each is None else _completion(each, reader) for each in outputs]
    token_ids = request.input["prompt_token_ids"]
    prompt_tokens = len(token_ids)
    generation = Generation(
        request_id=request.id,
        prompt_token_count=prompt_tokens,
        completions=found,
        latency=time.perf_counter() - request.started,
        prompt_token_ids=token_ids,
        prompt_logprobs=None if given is None else _logprobs(token_ids, given),
    )
    return generation, prompt_tokens, sum(c.token_count for c in found)


def to_embedding(request: EngineRequest, output: Any) -> tuple[Embedding, int, int]:
    """Return a finished request's vector and its numbers of prompt and completion tokens."""
    tokens = len(output.prompt_token_ids)
    vector = output.outputs.data.tolist()
    return Embedding(vector=vector, token_count=tokens, truncated=request.truncated), tokens, 0


def to_prompt_logprobs(request: EngineRequest, output: Any) -> tuple[list[float], int, int]:
    """Return the log-probability of each token of a prompt but the first, and the numbers."""
    token_ids = request.input["prompt_token_ids"]
    found = [
        place[token_id].logprob
        for token_id, place in zip(token_ids[1:], output.prompt_logprobs[1:], strict=True)
    ]
    return found, len(token_ids), 1


def to_classification(request: EngineRequest, output: Any) -> tuple[Classification, int, int]:
    """Return what a head says of a finished request, and its numbers of tokens.

    A head that speaks at each token is believed at the last one.
    """
    tokens, data = len(output.prompt_token_ids), output.outputs.data
    values = (data[-1] if data.dim() == 2 else data).tolist()
    found = Classification(values=values, token_count=tokens, truncated=request.truncated)
    return found, tokens, 0


def to_token_logprobs(_request: EngineRequest, output: Any) -> tuple[dict[int, float], int, int]:
    """Return the log-probabilities of the tokens asked for, and the request's numbers of tokens."""
    (place,) = output.outputs[0].logprobs
    found = {token: logprob.logprob for token, logprob in place.items()}
    return found, len(output.prompt_token_ids), 0


def _completion(completion: Any, reader: AnswerReader | None) -> Completion:
    plain = Completion(
        text=completion.text,
        finish_reason=completion.finish_reason or "deadline",
        token_count=len(completion.token_ids),
        logprobs=None if completion.logprobs is None else _sampled(completion),
    )
    if reader is None:
        return plain
    answer = reader.read(completion.text, completion.token_ids)
    asks = bool(answer.tool_calls) and plain.finish_reason == "stop"
    return replace(
        plain, finish_reason="tool_calls" if asks else plain.finish_reason, **answer._asdict()
    )


def _sampled(completion: Any) -> list[TokenLogprob]:
    found = _logprobs(completion.token_ids, completion.logprobs)
    return [each for each in found if each is not None]


def _logprobs(token_ids: Sequence[int], places: Sequence[Any]) -> list[TokenLogprob | None]:
    """Return what vLLM says of each token in its place; of a prompt's first one it says nothing."""
    return [
        place
        and TokenLogprob(
            token=_token(place[token_id]),
            token_id=token_id,
            logprob=place[token_id].logprob,
            top={_token(each): each.logprob for each in place.values()},
            by_id={each: place[each].logprob for each in place},
        )
        for token_id, place in zip(token_ids, places, strict=False)  # a deadline cuts a prompt's
    ]


def _token(logprob: Any) -> str:
    return logprob.decoded_token or ""
