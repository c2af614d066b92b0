"""GenerationCall: a call of ``generate``, ready to be started on the engine that serves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.engine_contract import (
    Completion,
    Engine,
    EngineInfo,
    Generation,
    OnText,
)
from sage.common.components.sage_vllm.errors import InvalidAnswerError
from sage.common.components.sage_vllm.requests.gather import attempt, gather, then
from sage.common.components.sage_vllm.requests.inputs import PromptItem
from sage.common.components.sage_vllm.requests.media.content_parts import (
    has_images,
    no_images,
)
from sage.common.components.sage_vllm.requests.result_types import GenerateResult
from sage.common.components.sage_vllm.requests.results import generation_result


def check_modalities(info: EngineInfo, items: Sequence[PromptItem]) -> None:
    """Raise InvalidRequestError for a prompt with pictures that the model does not take."""
    for index, item in enumerate(items):
        if "image" not in info.modalities and has_images(item.prompt):
            which = f"prompt {index}" if len(items) > 1 else "the prompt"
            raise no_images(info.model_id, which)


class GenerationCall:
    """Starts its prompts on an engine, all or none; a slot may start it later than it was made.

    Args:
        items: the prompts, each with all options that hold for it.
        return_errors: put a prompt's error into its place, instead of ending the call with it.
        on_text: is given the pieces of the text; for a call of one prompt.
    """

    def __init__(
        self,
        items: Sequence[PromptItem],
        *,
        return_errors: bool = False,
        on_text: OnText | None = None,
    ) -> None:
        self._items = items
        self._return_errors = return_errors
        self._on_text = on_text
        self._began = time.perf_counter()

    @property
    def expires(self) -> float | None:
        """When all prompts are past their deadlines, by time.perf_counter; None for never."""
        latest = 0.0
        for item in self._items:
            deadline = item.options.get("deadline")
            if deadline is None:
                return None
            latest = max(latest, deadline)
        return self._began + latest

    def expired(self, model_id: str) -> list[GenerateResult]:
        """Return the results of a call whose deadlines have passed before an engine had it."""
        latency = time.perf_counter() - self._began
        nothing = Completion(text="", finish_reason="deadline", token_count=0)
        return [
            generation_result(
                model_id,
                Generation(
                    request_id="not started",
                    prompt_token_count=0,
                    completions=[nothing] * item.options.get("n", 1),
                    latency=latency,
                ),
                item.options,
            )
            for item in self._items
        ]

    def __call__(self, engine: Engine) -> Future[list[GenerateResult]]:
        """Submit the prompts; return a Future of the list that VLLMService.generate describes."""
        model_id, return_errors = engine.info.model_id, self._return_errors
        result = self._result_or_error if return_errors else generation_result
        if not return_errors:
            check_modalities(engine.info, self._items)
        if len(self._items) == 1:  # most calls: they are spared what many prompts need

            def alone(generation: Any) -> list[GenerateResult]:
                return [result(model_id, generation, self._items[0].options)]

            only = self._submit(engine, self._items[0])
            return then(only, alone, return_errors=return_errors)

        def together(generations: list[Any]) -> list[GenerateResult]:
            return [
                result(model_id, generation, item.options)
                for generation, item in zip(generations, self._items, strict=True)
            ]

        submitted = (self._submit(engine, item) for item in self._items)
        return gather(submitted, together, return_errors=return_errors, item="prompt")

    @staticmethod
    def _result_or_error(
        model_id: str, generation: Any, options: Mapping[str, Any]
    ) -> GenerateResult:
        try:
            return generation_result(model_id, generation, options)
        except InvalidAnswerError as error:
            return generation_result(model_id, error)

    def _submit(self, engine: Engine, item: PromptItem) -> Future[Generation]:
        return attempt(
            lambda: engine.submit(item.prompt, self._as_of_now(item.options), self._on_text),
            return_errors=self._return_errors,
        )

    def _as_of_now(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return options with their deadline less what the call has waited for an engine."""
        if options.get("deadline") is None:
            return options
        return {**options, "deadline": options["deadline"] - (time.perf_counter() - self._began)}
