"""ScoringCall: a call of score, rerank, classify or reward, ready to be started on an engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.engine_contract import (
    Classification,
    Engine,
    EngineInfo,
    Prompt,
    TextPair,
)
from sage.common.components.sage_vllm.errors import WrongModelTypeError
from sage.common.components.sage_vllm.requests.gather import attempt, gather, then
from sage.common.components.sage_vllm.requests.scoring.scoring_options import (
    check_scoring_options,
)
from sage.common.components.sage_vllm.requests.scoring.scoring_results import Outcome


class ScoringCall:
    """Starts its inputs on an engine, all or none; a slot may start it later than it was made.

    Args:
        given: texts, pairs or conversations.
        make_result: makes the result of what became of them.
        task: what is asked of the model, for errors.
        gives_score: whether the model must have one number for each, not several classes.
        activation, truncate, chat_template: as of Engine.classify, for all.
        on_error: ``"return"`` names an input's error in the result, instead of ending the call
            with it.

    Raises InvalidOptionError for an option of a wrong type.
    """

    def __init__(
        self,
        given: Sequence[Prompt | TextPair],
        make_result: Callable[[Outcome], Any],
        *,
        task: str,
        gives_score: bool = True,
        activation: bool,
        truncate: bool = False,
        chat_template: str | None = None,
        on_error: str = "raise",
    ) -> None:
        check_scoring_options(
            on_error=on_error,
            chat_template=chat_template,
            truncate=truncate,
            activation=activation,
        )
        self._given = given
        self._make_result = make_result
        self._task = task
        self._gives_score = gives_score
        self._truncate = truncate
        self._options: dict[str, Any] = {
            "activation": activation,
            "truncate": truncate,
            "chat_template": chat_template,
        }
        self._return_errors = on_error == "return"
        self._began = time.perf_counter()

    def __len__(self) -> int:
        """Return the number of inputs."""
        return len(self._given)

    def __call__(self, engine: Engine) -> Future[Any]:
        """Submit the inputs; return a Future of the result. Raises WrongModelTypeError."""
        info = engine.info
        if self._gives_score:
            check_gives_score(info, self._task)
        return_errors = self._return_errors

        def combine(found: Sequence[Classification | Exception]) -> Any:
            cut = [each for each in found if isinstance(each, Classification) and each.truncated]
            outcome = Outcome(
                info=info,
                found=found,
                truncated=len(cut) if self._truncate else None,
                return_errors=return_errors,
                latency=time.perf_counter() - self._began,
            )
            return self._make_result(outcome)

        def submit(given: Prompt | TextPair) -> Future[Classification]:
            return attempt(
                lambda: engine.classify(given, **self._options), return_errors=return_errors
            )

        submitted = map(submit, self._given)
        if len(self._given) == 1:  # most calls of a pipeline
            return then(next(submitted), lambda one: combine([one]), return_errors=return_errors)
        return gather(submitted, combine, return_errors=return_errors, item="text")


def check_gives_score(info: EngineInfo, task: str) -> None:
    """Raise WrongModelTypeError, which is no single record's, for a head of several classes."""
    if len(info.classes) == 1:
        return
    shown = ", ".join(info.classes[:4]) + (", ..." if info.classes[4:] else "")
    error = WrongModelTypeError(
        "model",
        info.model_id,
        f"tells {len(info.classes)} classes apart ({shown})",
        task,
        hint="ask it with classify(), or use a model that gives one number",
    )
    error.skippable = False
    raise error
