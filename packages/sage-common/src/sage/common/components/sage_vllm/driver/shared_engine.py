"""SharedEngine: a vLLM engine that many threads share.

Its driver owns the engine; what is said to vLLM itself is in the room ``backend``.
"""

from __future__ import annotations

import atexit
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from types import MappingProxyType
from typing import Any

from sage.common.components.sage_vllm.backend.scoring.scoring_renderer import ScoringRenderer
from sage.common.components.sage_vllm.backend.vllm_renderer import VLLMRenderer
from sage.common.components.sage_vllm.cache.answer_key import request_key
from sage.common.components.sage_vllm.cache.result_cache import ResultCache
from sage.common.components.sage_vllm.driver.device_plans import PlansOnDevice
from sage.common.components.sage_vllm.driver.engine_driver import EngineDriver
from sage.common.components.sage_vllm.driver.engine_request import (
    EngineRequest,
    to_classification,
    to_embedding,
    to_generation,
    to_prompt_logprobs,
    to_token_logprobs,
)
from sage.common.components.sage_vllm.driver.equal_requests import EqualRequests
from sage.common.components.sage_vllm.driver.inbox import End
from sage.common.components.sage_vllm.driver.kept_answers import (
    EMBEDDING,
    GENERATION,
    KeptAnswers,
)
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
    TextPair,
)
from sage.common.components.sage_vllm.engine_stats import EngineStats
from sage.common.components.sage_vllm.errors import InvalidRequestError, PromptTooLongError
from sage.common.components.sage_vllm.host.home_process import HomeProcess
from sage.common.components.sage_vllm.requests.gather import gather


class SharedEngine(PlansOnDevice):
    """A vLLM engine; see the Engine protocol.

    Prompts are tokenised on the callers' threads, and texts to embed on the driver's: they take it
    less time all at once than to share cores with their callers.

    An engine that dies is built again, and the requests that it had are replayed; their callers
    see a delay. A request that kills it again and again fails alone.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._model_id = spec.model_id
        self._ids = count()
        self._home = HomeProcess()
        self._equal = EqualRequests()
        self._driver = EngineDriver(spec)
        atexit.register(self.close)
        try:
            self._renderer, self._info = self._driver.ready.result()
            self._kept = KeptAnswers(spec, self._info)
        except Exception:
            self.close()
            raise
        except BaseException:  # a Ctrl-C does not wait for a model to load; it closes after that
            self._driver.inbox.tell(End.NOW)
            atexit.unregister(self.close)
            raise
        atexit.unregister(self.close)
        atexit.register(self.close)  # again, so that it runs before what vLLM has registered

    def on_death(self, told: Callable[[], None]) -> None:
        """Have ``told`` called at each death; see ReportsDeath."""
        self._driver.told_of_deaths.append(told)

    @property
    def info(self) -> EngineInfo:
        """What was built."""
        return self._info

    @property
    def state(self) -> EngineState:
        """Whether it accepts requests; while it recovers, requests wait."""
        return self._driver.state

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise InvalidRequestError for options that no prompt could have; see ChecksOptions."""
        self._open_renderer().check_options(options)

    def submit(
        self, prompt: Prompt, options: Mapping[str, Any], on_text: OnText | None = None
    ) -> Future[Generation]:
        """Start a generation; see Engine.submit."""
        deadline = options.get("deadline")
        incremental = on_text is not None or deadline is not None
        rendered, params, arguments, reader = self._open_renderer().generation(
            prompt, options, incremental=incremental
        )
        if on_text is not None and params.n > 1:
            raise InvalidRequestError(self._model_id, "a stream has one text: n must be 1")
        request = EngineRequest(
            f"r{next(self._ids)}",
            rendered,
            params,
            to_generation,
            arguments=arguments,
            deadline=deadline,
            on_text=on_text,
            reader=reader,
        )
        cache: ResultCache | None = options.get("cache")
        # Without a cache, what has a time or a stream of its own needs no key: none is equal to it.
        key = None if incremental and cache is None else self._key_of(request)
        if cache is not None and key is None:
            cache.skip()
        if cache is None or key is None:
            return self._share(request, key)
        return self._kept.answer(cache, key, request, lambda: self._share(request, key), GENERATION)

    def _key_of(self, request: EngineRequest) -> bytes | None:
        """Return what the answer follows from; None where it is not determined."""
        arguments, reader = request.arguments, request.reader
        lora = arguments.get("lora_request")
        return request_key(
            request.input,
            request.params,
            self._info.max_model_len,
            adapter="" if lora is None else lora.lora_name,
            reading=[arguments.get("reasoning"), None if reader is None else reader.facts],
        )

    def _share(self, request: EngineRequest, key: Hashable) -> Future[Any]:
        """Start a request, or wait for the answer of an equal one that is in flight."""
        if key is None or request.incremental:  # it has a time or a stream of its own
            return self._start(request)
        equal = (key, request.arguments.get("priority", 0))
        if (joined := self._equal.join(equal)) is not None:
            self._driver.inbox.watch(*joined)
            return joined[1]
        self._start(request)
        self._equal.add(equal, request)
        return request.future

    def embed(
        self,
        text: str,
        *,
        normalize: bool,
        dimensions: int | None = None,
        truncate: bool = False,
        cache: ResultCache | None = None,
    ) -> Future[Embedding]:
        """Start an embedding; see Engine.embed."""
        params = self._open_renderer().pooling_params(normalize=normalize, dimensions=dimensions)
        request_id = f"r{next(self._ids)}"
        request = EngineRequest(request_id, text, params, to_embedding, truncate=truncate)
        key = ("embed", text, normalize, dimensions, truncate)
        if cache is None:
            return self._share(request, key)
        kept_by = json.dumps(key).encode()
        return self._kept.answer(
            cache, kept_by, request, lambda: self._share(request, key), EMBEDDING
        )

    def classify(
        self,
        given: Prompt | TextPair,
        *,
        activation: bool,
        truncate: bool = False,
        chat_template: str | None = None,
    ) -> Future[Classification]:
        """Start reading what the model's head says; see Engine.classify."""
        renderer = self._open_renderer()
        if not isinstance(renderer, ScoringRenderer):
            raise InvalidRequestError(self._model_id, "this engine has no head to classify with")
        read: Any = given
        if isinstance(given, tuple):
            read = renderer.one_text(given, chat_template)
        elif not isinstance(given, str):
            read = renderer.render_answered(given, chat_template)
        params = renderer.scoring_params(activation=activation)
        request_id = f"r{next(self._ids)}"
        request = EngineRequest(request_id, read, params, to_classification, truncate=truncate)
        return self._start(request)

    def read_likelihood(
        self,
        prompt: Prompt,
        continuations: Sequence[str],
        *,
        chat_template: str | None = None,
        lora: LoraAdapter | None = None,
    ) -> Future[Likelihood]:
        """Start reading how likely each text is to follow a prompt; see Engine.read_likelihood."""
        renderer = self._open_renderer()
        options = renderer.without_thinking({"chat_template": chat_template})
        tokens = renderer.render(prompt, options)["prompt_token_ids"]
        tree = renderer.continuations.tree(prompt, continuations)
        arguments = renderer.request_arguments({"lora": lora})
        longest = len(tokens) + tree.depth
        if longest >= self._info.max_model_len:
            raise PromptTooLongError(self._model_id, longest, self._info.max_model_len)

        def ask(before: tuple[int, ...], wanted: Sequence[int]) -> Future[dict[int, float]]:
            behind = renderer.render_tokens([*tokens, *before])
            params = renderer.continuations.reading_params(wanted)
            request_id = f"r{next(self._ids)}"
            request = EngineRequest(
                request_id, behind, params, to_token_logprobs, arguments=arguments
            )
            return self._start(request)

        return gather(
            (ask(before, wanted) for before, wanted in tree.questions),
            lambda told: Likelihood(logprobs=tree.sums(told), token_count=len(tokens)),
        )

    def count_tokens(
        self,
        prompt: Prompt,
        *,
        chat_template: str | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> int:
        """Return how many tokens a prompt has; see Engine.count_tokens."""
        return self._open_renderer().count_tokens(
            prompt, {**options, "chat_template": chat_template}
        )

    def token_logprobs(
        self, token_ids: Sequence[int], *, lora: LoraAdapter | None = None
    ) -> Future[list[float]]:
        """Start reading how likely each of the tokens is after those before it; the first has none.

        It tells whether a model, or an adapter, is here what it was where it was trained.
        """
        renderer = self._open_renderer()
        request = EngineRequest(
            f"r{next(self._ids)}",
            renderer.render_tokens(token_ids),
            renderer.parameters.of_reading(),
            to_prompt_logprobs,
            arguments=renderer.request_arguments({"lora": lora}),
        )
        return self._start(request)

    def end_token(self) -> int | None:
        """Return the token that ends a text; see ReadsTokens."""
        return self._renderer.tokens.end_token()

    def text_of(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens; see ReadsTokens."""
        return self._renderer.tokens.text_of(token_ids, skip_special_tokens=skip_special_tokens)

    def stats(self) -> EngineStats:
        """Return the counters as of the last step."""
        return replace(
            self._driver.stats(self._info.max_batch_size),
            requests_shared=self._equal.joined,
            requests_cached=self._kept.found,
        )

    def close(self, *, drain: bool = False) -> None:
        """Free everything, if ``drain`` after what is in flight; see Engine.close.

        In a fork of its process it does nothing: the engine is not that process's.
        """
        atexit.unregister(self.close)
        if self._home.is_this():
            self._driver.close(drain=drain)

    def _open_renderer(self) -> VLLMRenderer:
        self._driver.inbox.check_open()
        return self._renderer

    def _start(self, request: EngineRequest) -> Future[Any]:
        self._driver.inbox.submit(request)
        return request.future
