"""EchoEngine: an engine without weights, for tests, docs and examples of what surrounds it.

It is never used unless it is asked for by name. The service still takes the model from the
registry, so ``write_echo_model`` makes one that it accepts::

    from pathlib import Path

    from sage.common.components.sage_vllm import VLLMService
    from sage.common.components.sage_vllm.testing import EchoEngine, write_echo_model
    from sage.common.model_registry import import_model

    import_model("any/model", write_echo_model(Path("echo")), root="models")
    config = {"model_id": "any/model", "model_root": "models"}
    with VLLMService(config, engine_factory=EchoEngine) as service:
        print(service.generate("one two three", max_tokens=2)[0]["text"])  # one two

In tests the fixture ``echo_service`` of ``sage.libs.testing`` does all of that.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sage.common.components.sage_vllm.engine_contract import (
    Classification,
    Embedding,
    EngineInfo,
    EngineSpec,
    EngineState,
    Generation,
    Likelihood,
    LoraAdapter,
    OnText,
    Prompt,
    Role,
    TextPair,
)
from sage.common.components.sage_vllm.engine_stats import EngineStats
from sage.common.components.sage_vllm.errors import (
    EngineClosedError,
    InvalidRequestError,
    PromptTooLongError,
)
from sage.common.components.sage_vllm.planning.text_prompts import read_text_prompts
from sage.common.components.sage_vllm.requests.media.content_parts import (
    content_text,
    read_images,
)
from sage.common.components.sage_vllm.testing.bound_text import bound_text, misfit
from sage.common.components.sage_vllm.testing.canned_answer import (
    CannedAnswer,
    completed,
    example_call,
)
from sage.common.components.sage_vllm.testing.delay_line import DelayLine
from sage.common.components.sage_vllm.testing.word_scores import (
    read_classes,
    word_logprobs,
    word_scores,
)
from sage.common.components.sage_vllm.tokens import TokenIds

_MAX_WORDS = 512
_DIMENSIONS = 8


Answer = str | CannedAnswer | Mapping[str, Any] | Sequence[Any] | Exception
"""What a prompt is answered with: a text, a CannedAnswer, a value that becomes JSON, or an error to
raise."""

Answers = Mapping[str, Answer] | Callable[[Prompt], Answer | None]
"""Answers by the prompt's text, which is that of a conversation's last message; or a function that
takes the prompt as the service was given it, and returns None for an echo."""


class EchoEngine:
    """Answers each prompt with its own words, or as you say; a word is a token.

    The same prompt and options always give the same text. Prompts of more than 512 words are
    refused, as a model refuses what exceeds its context; token ids are words too, and so is what
    names a picture, which is opened as far as its header. ``json_schema``, ``json_object``,
    ``choice`` and ``regex`` are kept to: words that do not fit are replaced by the first choice,
    the shortest match, or an object whose strings say the prompt's last words. ``max_tokens``,
    ``n`` and ``deadline`` do what they always do, and with tools a ``tool_choice`` that asks for a
    call makes one that follows the tool's schema. Other options change nothing.

    Args:
        spec: what the service asks for.
        answers: what to answer instead. One that breaks the call's ``choice``, ``regex`` or
            ``json_schema``, as no model could, fails with InvalidRequestError.
        latency: seconds from a request to its answer; any number of requests wait side by side.

    A service takes it with its arguments as a partial::

        from functools import partial

        answers = {"Is it open?": "yes", "Is it broken?": OSError("no memory")}
        engine = partial(EchoEngine, answers=answers, latency=0.1)
        with VLLMService(config, engine_factory=engine) as service:
            print(service.generate("Is it open?", choice=["yes", "no"])[0]["text"])  # yes
    """

    def __init__(
        self, spec: EngineSpec, *, answers: Answers | None = None, latency: float = 0.0
    ) -> None:
        if not (answers is None or isinstance(answers, Mapping) or callable(answers)):
            raise TypeError(f"answers must be a dict by prompt or a function, not {answers!r}")
        self._answers = answers
        self._latency = latency
        self._ids = count()
        self._closed = False
        self._line = DelayLine()
        self._requests_done = self._prompt_tokens = self._completion_tokens = 0
        prompts = read_text_prompts(spec.model_id, spec.path)
        self._info = EngineInfo(
            model_id=spec.model_id,
            mode="inline",
            dtype="none",
            max_model_len=_MAX_WORDS,
            max_batch_size=64,
            start_seconds=0.0,
            chat_templates=("default",),
            modalities=("image",),
            prompts=prompts.by_name,
            default_prompt=prompts.default,
            classes=read_classes(spec) if spec.role is Role.SCORE else (),
        )

    @property
    def info(self) -> EngineInfo:
        """What this engine says of itself."""
        return self._info

    @property
    def state(self) -> EngineState:
        """Ready until it is closed."""
        return "closed" if self._closed else "ready"

    def submit(
        self, prompt: Prompt, options: Mapping[str, Any], on_text: OnText | None = None
    ) -> Future[Generation]:
        """Complete with the answer's words, up to ``max_tokens`` of them, ``n`` times."""
        read_images(prompt)
        prompt_words = len(self._words(_text_of(prompt)))
        deadline = options.get("deadline")
        late = deadline is not None and deadline < self._latency
        seconds = max(0.0, deadline) if deadline is not None and late else self._latency
        began = time.perf_counter()

        def complete() -> Generation:
            answer = CannedAnswer() if late else self._canned(prompt, options)
            completion, pieces = completed(answer, prompt, options, _MAX_WORDS)
            if late:
                completion = replace(completion, finish_reason="deadline")
            if on_text is not None:
                for piece in pieces:
                    on_text(piece)
            completions = [completion] * options.get("n", 1)
            self._count(prompt_words, completion.token_count * len(completions))
            return Generation(
                request_id=f"r{next(self._ids)}",
                prompt_token_count=prompt_words,
                completions=completions,
                latency=self._took(began, seconds),
            )

        words = min(prompt_words, options.get("max_tokens") or _MAX_WORDS)
        return self._later(seconds, words, complete)

    def embed(
        self,
        text: str,
        *,
        normalize: bool,
        dimensions: int | None = None,
        truncate: bool = False,
        cache: Any = None,  # noqa: ARG002 - it makes each anew
    ) -> Future[Embedding]:
        """Return a vector of 8 floats, or of ``dimensions``, made from the text's hash."""
        words = text.split()
        truncated = truncate and len(words) > _MAX_WORDS
        if truncated:
            text = " ".join(words[:_MAX_WORDS])
        words = self._words(text)
        digest = hashlib.sha256(text.encode()).digest()
        vector = [byte - 127.5 for byte in digest[: dimensions or _DIMENSIONS]]
        length = sum(x * x for x in vector) ** 0.5 if normalize else 1.0

        def complete() -> Embedding:
            self._count(len(words), 0)
            return Embedding(
                vector=[x / length for x in vector], token_count=len(words), truncated=truncated
            )

        return self._later(self._latency, 1, complete)

    def classify(
        self,
        given: Prompt | TextPair,
        *,
        activation: bool,
        truncate: bool = False,
        chat_template: str | None = None,  # noqa: ARG002 - it has one
    ) -> Future[Classification]:
        """Say how many of a query's words a text has, or which class it names; see word_scores."""
        text = f"{given[0]} {given[1]}" if isinstance(given, tuple) else _text_of(given)
        truncated = truncate and len(text.split()) > _MAX_WORDS
        words = text.split()[:_MAX_WORDS] if truncated else self._words(text)
        pair = given if isinstance(given, tuple) else None
        values = word_scores(words, pair, self._info.classes, activation=activation)

        def complete() -> Classification:
            self._count(len(words), 0)
            return Classification(values=values, token_count=len(words), truncated=truncated)

        return self._later(self._latency, 1, complete)

    def read_likelihood(
        self,
        prompt: Prompt,
        continuations: Sequence[str],
        *,
        chat_template: str | None = None,  # noqa: ARG002 - it has one
        lora: LoraAdapter | None = None,  # noqa: ARG002 - which changes nothing
    ) -> Future[Likelihood]:
        """Say how likely each text is to follow: the likelier, the more often the prompt has it."""
        words = self._words(_text_of(prompt))
        logprobs = word_logprobs(words, continuations)

        def complete() -> Likelihood:
            self._count(len(words), 0)
            return Likelihood(logprobs=logprobs, token_count=len(words))

        return self._later(self._latency, 1, complete)

    def stats(self) -> EngineStats:
        """Return the counters; what its latency has not passed for yet is in flight."""
        in_flight = len(self._line)
        return EngineStats(
            in_flight=in_flight,
            running=in_flight,
            requests_done=self._requests_done,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            steps=self._requests_done,
            sequence_steps=self._requests_done,
            max_batch_size=self._info.max_batch_size,
        )

    def count_tokens(
        self,
        prompt: Prompt,
        *,
        chat_template: str | None = None,  # noqa: ARG002 - it has one
        options: Mapping[str, Any] = MappingProxyType({}),  # noqa: ARG002 - which change nothing
    ) -> int:
        """Return the number of words, be it more than the engine takes."""
        words = _text_of(prompt).split()
        self._words(" ".join(words[:_MAX_WORDS]))
        return len(words)

    def close(self, *, drain: bool = False) -> None:
        """Refuse further requests; those in flight fail, or with ``drain`` are answered first."""
        self._closed = not drain
        self._line.close(EngineClosedError(self._info.model_id), drain=drain)
        self._closed = True

    def _took(self, began: float, seconds: float) -> float:  # noqa: ARG002 - as below
        return seconds

    def _later(self, seconds: float, words: int, complete: Callable[[], Any]) -> Future[Any]:  # noqa: ARG002 - for engines that work in steps
        return self._line.later(seconds, complete)

    def _canned(self, prompt: Prompt, options: Mapping[str, Any]) -> CannedAnswer:
        """Return what a prompt is answered with; raises InvalidRequestError, and what it is to."""
        own = " ".join(_text_of(prompt).split())
        if callable(self._answers):
            answer = self._answers(prompt)
        else:
            answer = (self._answers or {}).get(_text_of(prompt))
        if isinstance(answer, Exception):
            raise answer
        try:
            if answer is None:
                return example_call(own, options) or CannedAnswer(text=bound_text(own, options))
            if not isinstance(answer, str | CannedAnswer):
                answer = json.dumps(answer, ensure_ascii=False)
            canned = CannedAnswer(text=answer) if isinstance(answer, str) else answer
            why = None if canned.tool_calls else misfit(canned.text, options)
        except ValueError as error:
            raise InvalidRequestError(self._info.model_id, str(error)) from error
        if why is not None:
            problem = f"the answer {canned.text!r} given to EchoEngine is no answer to this call: "
            raise InvalidRequestError(self._info.model_id, problem + why)
        return canned

    def _words(self, text: str) -> list[str]:
        if self._closed:
            raise EngineClosedError(self._info.model_id)
        words = text.split()
        if not words:
            raise InvalidRequestError(self._info.model_id, "the prompt has no words")
        if len(words) > _MAX_WORDS:
            raise PromptTooLongError(self._info.model_id, len(words), _MAX_WORDS)
        return words

    def _count(self, prompt_tokens: int, completion_tokens: int) -> None:
        self._prompt_tokens += prompt_tokens
        self._completion_tokens += completion_tokens
        self._requests_done += 1  # last: whoever sees a request done sees its tokens too


def _text_of(prompt: Prompt) -> str:
    if isinstance(prompt, TokenIds):
        return " ".join(map(str, prompt))
    return prompt if isinstance(prompt, str) else content_text(prompt[-1].get("content") or "")


def write_echo_model(folder: Path, *, classes: Sequence[str] = ()) -> Path:
    """Write the least folder that the registry imports as a model, and return it.

    With ``classes`` it is one with a head over these, which scores and classifies; a single one
    is a score: ``classes=["relevance"]`` makes a reranker.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {"architectures": ["Echo"]}
    if classes:
        names = {str(index): name for index, name in enumerate(classes)}
        config = {"architectures": ["EchoForSequenceClassification"], "id2label": names}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder
