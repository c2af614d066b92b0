"""LabelCall: a call of classify with labels, which a text model answers without generating."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.engine_contract import (
    Engine,
    Likelihood,
    LoraAdapter,
    Prompt,
)
from sage.common.components.sage_vllm.errors import InvalidOptionError, PromptTooLongError
from sage.common.components.sage_vllm.requests.gather import attempt, gather, then
from sage.common.components.sage_vllm.requests.inputs import PromptItem, parse_prompts
from sage.common.components.sage_vllm.requests.scoring.scoring_options import (
    check_prompt_template,
    check_scoring_options,
)
from sage.common.components.sage_vllm.requests.scoring.scoring_results import (
    ClassifyResult,
    Outcome,
    labels_result,
)

DEFAULT_TEMPLATE = (
    "Classify the text as one of these: {labels}. Answer with one of them and nothing else.\n\n"
    "Text: {text}\n\nClass:"
)
"""What a text model is asked where a call gives no ``prompt_template``."""


class LabelCall:
    """Starts its texts on an engine that generates; a slot may start it later than it was made.

    Args:
        texts: a text or a list of them, which ``prompt_template`` makes prompts of; a conversation
            among them is asked as it stands.
        labels: the classes, in words that the model may answer with.
        prompt_template: what the model is asked, with ``{text}``, and ``{labels}`` if it names
            them; None is DEFAULT_TEMPLATE.
        truncate: ask about the beginning of a text that is too long.
        chat_template: the name of one of the model's.
        lora: the adapter that the model answers with.
        on_error: ``"return"`` names a text's error in the result, instead of ending the call
            with it.

    Raises InvalidInputError and InvalidOptionError for what cannot be.
    """

    def __init__(
        self,
        texts: Any,
        labels: Sequence[str],
        *,
        prompt_template: str | None = None,
        truncate: bool = False,
        chat_template: str | None = None,
        lora: LoraAdapter | None = None,
        on_error: str = "raise",
    ) -> None:
        check_scoring_options(on_error=on_error, chat_template=chat_template, truncate=truncate)
        template = DEFAULT_TEMPLATE if prompt_template is None else prompt_template
        check_prompt_template(template)
        self._texts = [item.prompt for item in _without_options(parse_prompts(texts))]
        self._labels = labels
        self._template = template.replace("{labels}", ", ".join(labels))
        self._truncate = truncate
        self._chat_template = chat_template
        self._lora = lora
        self._return_errors = on_error == "return"
        self._truncated = 0
        self._began = time.perf_counter()

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._texts)

    def __call__(self, engine: Engine) -> Future[ClassifyResult]:
        """Ask about the texts; return a Future of the dict that VLLMService.classify describes."""
        return_errors = self._return_errors
        self._truncated = 0

        def combine(found: Sequence[Likelihood | Exception]) -> ClassifyResult:
            outcome = Outcome(
                info=engine.info,
                found=found,
                truncated=self._truncated if self._truncate else None,
                return_errors=return_errors,
                latency=time.perf_counter() - self._began,
            )
            return labels_result(outcome, self._labels)

        def submit(text: Prompt) -> Future[Likelihood]:
            return attempt(lambda: self._ask(engine, text), return_errors=return_errors)

        submitted = map(submit, self._texts)
        if len(self._texts) == 1:
            return then(next(submitted), lambda one: combine([one]), return_errors=return_errors)
        return gather(submitted, combine, return_errors=return_errors, item="text")

    def _ask(self, engine: Engine, text: Prompt) -> Future[Likelihood]:
        if not isinstance(text, str):
            return self._read(engine, text)
        try:
            return self._read(engine, self._prompt(engine, text))
        except PromptTooLongError:
            if not self._truncate:
                raise
        future = self._read(engine, self._prompt(engine, self._beginning(engine, text)))
        self._truncated += 1
        return future

    def _prompt(self, engine: Engine, text: str) -> Prompt:
        asked = self._template.replace("{text}", text)
        return [{"role": "user", "content": asked}] if engine.info.chat_templates else asked

    def _read(self, engine: Engine, prompt: Prompt) -> Future[Likelihood]:
        # A conversation ends where the answer begins; behind a text it begins with a blank.
        blank = " " if isinstance(prompt, str) and not prompt[-1].isspace() else ""
        answers = [f"{blank}{label}" for label in self._labels]
        return engine.read_likelihood(
            prompt, answers, chat_template=self._chat_template, lora=self._lora
        )

    def _beginning(self, engine: Engine, text: str) -> str:
        """Return as much of a text's beginning as fits; raises PromptTooLongError if none does."""
        # The longest label may take a token for each of its bytes.
        room = engine.info.max_model_len - max(len(label.encode()) for label in self._labels) - 1
        fits, too_much = 0, len(text)
        while too_much - fits > 1:
            middle = (fits + too_much) // 2
            prompt = self._prompt(engine, text[:middle])
            tokens = engine.count_tokens(prompt, chat_template=self._chat_template)
            fits, too_much = (middle, too_much) if tokens <= room else (fits, middle)
        return text[:fits]


def _without_options(items: list[PromptItem]) -> list[PromptItem]:
    for item in items:
        if item.options:
            problem = f"a text to classify has no options of its own, not {dict(item.options)!r}"
            raise InvalidOptionError("options", item.options, problem)
    return items
