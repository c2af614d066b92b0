"""TokenCount: a call of ``count_tokens``, ready to be made on the engine that serves."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from sage.common.components.sage_vllm.engine_contract import Engine
from sage.common.components.sage_vllm.requests.inputs import PromptItem
from sage.common.components.sage_vllm.requests.text_prompt import text_prompt


class TokenCount:
    """Counts the tokens of prompts; conversations go through the template of this name."""

    def __init__(self, items: Sequence[PromptItem], chat_template: str | None) -> None:
        self._items = items
        self._chat_template = chat_template

    def __call__(self, engine: Engine) -> Future[list[int]]:
        """Return a Future of the number of tokens of each prompt; it is done."""
        before = text_prompt(engine.info, None)  # of an embedding model
        prompts = [
            before + item.prompt if isinstance(item.prompt, str) else item.prompt
            for item in self._items
        ]
        counted: Future[list[int]] = Future()
        counted.set_result(
            [engine.count_tokens(prompt, chat_template=self._chat_template) for prompt in prompts]
        )
        return counted
