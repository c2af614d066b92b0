"""BeamSearchCall: a call of ``beam_search``, ready to be started on the engine that serves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, cast

from sage.common.components.sage_vllm.engine_contract import Engine, Generation, Prompt
from sage.common.components.sage_vllm.errors import InvalidOptionError, InvalidRequestError
from sage.common.components.sage_vllm.requests.gather import attempt, gather, then
from sage.common.components.sage_vllm.requests.inputs import PromptItem
from sage.common.components.sage_vllm.requests.media.content_parts import has_images
from sage.common.components.sage_vllm.requests.result_types import Beam, BeamResult
from sage.common.components.sage_vllm.requests.results import error_result
from sage.common.components.sage_vllm.tokens import ReadsTokens, TokenIds

_OF_TOKENS = ("lora", "priority")
"""Options that hold for each step; others make tokens of the prompt, once."""


@dataclass(frozen=True, kw_only=True)
class BeamOptions:
    """How to search, as of VLLMService.beam_search; raises InvalidOptionError."""

    beam_width: int = 4
    max_tokens: int = 64
    length_penalty: float = 1.0
    temperature: float = 0.0
    ignore_eos: bool = False
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        for name in ("beam_width", "max_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                problem = f"{name} must be a whole number, 1 or more, not {value!r}"
                raise InvalidOptionError(name, value, problem)
        for name in ("length_penalty", "temperature"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                problem = f"{name} must be a number, not {value!r}"
                raise InvalidOptionError(name, value, problem)
        for name in ("ignore_eos", "skip_special_tokens"):
            if not isinstance(value := getattr(self, name), bool):
                problem = f"{name} must be True or False, not {value!r}"
                raise InvalidOptionError(name, value, problem)


class BeamSearchCall:
    """Starts a search for each prompt, all or none.

    Args:
        items: the prompts, each with the options that Engine.submit makes its tokens by.
        search: how to search.
        return_errors: put a prompt's error into its place, instead of ending the call with it.
    """

    def __init__(
        self, items: Sequence[PromptItem], search: BeamOptions, *, return_errors: bool = False
    ) -> None:
        self._items = items
        self._search = search
        self._return_errors = return_errors
        self._began = time.perf_counter()

    def __call__(self, engine: Engine) -> Future[list[BeamResult]]:
        """Begin to search; return a Future of what VLLMService.beam_search describes."""
        model_id = engine.info.model_id
        if not isinstance(engine, ReadsTokens):
            raise InvalidRequestError(model_id, "its engine cannot search: it tells no tokens")

        def begin(item: PromptItem) -> Future[_Beams]:
            if has_images(item.prompt):  # each step is of tokens alone
                raise InvalidRequestError(model_id, "a beam search has no prompts with pictures")
            return _BeamSearch(engine, item, self._search).begin()

        def start(item: PromptItem) -> Future[_Beams]:
            return attempt(lambda: begin(item), return_errors=self._return_errors)

        def combine(found: Sequence[_Beams | Exception]) -> list[BeamResult]:
            latency = time.perf_counter() - self._began
            return [
                cast("BeamResult", error_result(model_id, each))
                if isinstance(each, Exception)
                else self._result(engine, each, latency)
                for each in found
            ]

        return gather(
            map(start, self._items), combine, return_errors=self._return_errors, item="prompt"
        )

    def _result(self, engine: Any, found: _Beams, latency: float) -> BeamResult:
        special = self._search.skip_special_tokens
        choices: list[Beam] = [
            {
                "text": engine.text_of(beam.token_ids, skip_special_tokens=special),
                "finish_reason": "stop" if found.has_ended(beam) else "length",
                "score": found.score(beam),
                "logprob": beam.logprob,
                "token_ids": list(beam.token_ids),
            }
            for beam in found.best()
        ]
        prompt, completion = len(found.prompt), sum(len(each["token_ids"]) for each in choices)
        result: dict[str, Any] = {
            **choices[0],
            "choices": choices,
            "tokens_used": {
                "prompt": prompt,
                "completion": completion,
                "total": prompt + completion,
            },
            "latency": latency,
            "model_id": engine.info.model_id,
        }
        return cast("BeamResult", result)


@dataclass(frozen=True, kw_only=True)
class _Beam:
    """A beginning of an answer, and the sum of its tokens' log-probabilities."""

    token_ids: tuple[int, ...] = ()
    logprob: float = 0.0


@dataclass(kw_only=True)
class _Beams:
    """What has been found for a prompt so far: beams that go on, and those that have ended."""

    search: BeamOptions
    end_token: int | None
    prompt: Sequence[int] = ()
    alive: list[_Beam] = field(default_factory=lambda: [_Beam()])
    ended: list[_Beam] = field(default_factory=list)

    def score(self, beam: _Beam) -> float:
        """Return what beams are compared by, as vLLM and transformers do.

        The length is that of the prompt and the beam, without the token that ends it.
        """
        at_end = beam.token_ids[-1] == self.end_token
        length = len(self.prompt) + len(beam.token_ids) - at_end
        return float(beam.logprob / max(length, 1) ** self.search.length_penalty)

    def has_ended(self, beam: _Beam) -> bool:
        """Whether it ends by itself."""
        return beam.token_ids[-1] == self.end_token and not self.search.ignore_eos

    def grow(self, generations: Sequence[Generation]) -> None:
        """Replace the beams that go on by the best of those that are one token longer."""
        longer: list[_Beam] = []
        for beam, generation in zip(self.alive, generations, strict=True):
            for place in generation.completions[0].logprobs or ():
                for token_id, logprob in place.by_id.items():
                    grown = _Beam(
                        token_ids=(*beam.token_ids, token_id), logprob=beam.logprob + logprob
                    )
                    (self.ended if self.has_ended(grown) else longer).append(grown)
        longer.sort(key=self.score, reverse=True)
        self.alive = longer[: self.search.beam_width]

    def best(self) -> list[_Beam]:
        """Return as many beams as were asked for, the best first."""
        found = sorted([*self.ended, *self.alive], key=self.score, reverse=True)
        return found[: self.search.beam_width]


class _BeamSearch:
    """Searches the likeliest answers to one prompt, a request per beam and step.

    Each step is started by the end of the last one: an engine that is replaced finishes what it
    has begun, and so the whole search.
    """

    def __init__(self, engine: Any, item: PromptItem, search: BeamOptions) -> None:
        self._engine = engine
        self._prompt = item.prompt
        self._options = item.options
        self._search = search
        self._found = _Beams(search=search, end_token=engine.end_token())
        self._future: Future[_Beams] = Future()
        self._step: Future[list[Generation]] | None = None
        self._steps = 0

    def begin(self) -> Future[_Beams]:
        """Start the first step; return a Future of the beams. Cancelling it ends the search."""
        first = self._submit(self._prompt, self._options)
        self._future.add_done_callback(self._cancelled)
        self._watch(then(first, lambda generation: [generation]))
        return self._future

    def _submit(self, prompt: Prompt, options: Mapping[str, Any]) -> Future[Generation]:
        step = {
            "max_tokens": 1,
            "temperature": self._search.temperature,
            "logprobs": 2 * self._search.beam_width,
        }
        future: Future[Generation] = self._engine.submit(prompt, {**options, **step})
        return future

    def _watch(self, step: Future[list[Generation]]) -> None:
        self._step = step
        if self._future.cancelled():  # while it was started
            step.cancel()
        step.add_done_callback(self._stepped)

    def _cancelled(self, done: Future[_Beams]) -> None:
        if done.cancelled() and self._step is not None:
            self._step.cancel()

    def _stepped(self, step: Future[list[Generation]]) -> None:
        """Take the results of a step in and start the next, on the engine's own thread."""
        try:
            found, generations = self._found, step.result()
            self._steps += 1
            if self._steps == 1:
                found.prompt = generations[0].prompt_token_ids
            found.grow(generations)
            if found.alive and not self._is_over():
                kept = {name: self._options[name] for name in _OF_TOKENS if name in self._options}
                longer = [TokenIds((*found.prompt, *beam.token_ids)) for beam in found.alive]
                self._watch(gather((self._submit(ids, kept) for ids in longer), list, item="beam"))
            elif self._future.set_running_or_notify_cancel():
                self._future.set_result(found)
        except CancelledError:
            self._future.cancel()
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            if self._future.set_running_or_notify_cancel():
                self._future.set_exception(error)

    def _is_over(self) -> bool:
        room: int = self._engine.info.max_model_len - len(self._found.prompt)
        return self._steps >= min(self._search.max_tokens, room)
