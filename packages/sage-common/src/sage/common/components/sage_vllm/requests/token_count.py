"""TokenCount: a call of ``count_tokens``, ready to be made on the engine that serves."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Engine
from sage.common.components.sage_vllm.requests.chat.chat_options import CHAT_OPTIONS
from sage.common.components.sage_vllm.requests.inputs import PromptItem
from sage.common.components.sage_vllm.requests.text_prompt import text_prompt


class TokenCount:
    """Counts the tokens of prompts, by those of their options that a chat template looks at."""

    def __init__(self, items: Sequence[PromptItem]) -> None:
        self._items = items

    def __call__(self, engine: Engine) -> Future[list[int]]:
        """Return a Future of the number of tokens of each prompt; it is done."""
        before = text_prompt(engine.info, None)  # of an embedding model
        prompts = [
            before + item.prompt if isinstance(item.prompt, str) else item.prompt
            for item in self._items
        ]
        counted: Future[list[int]] = Future()
        counted.set_result(
            [
                engine.count_tokens(
                    prompt,
                    chat_template=item.options.get("chat_template"),
                    options=_of_conversations(item),
                )
                for prompt, item in zip(prompts, self._items, strict=True)
            ]
        )
        return counted


def _of_conversations(item: PromptItem) -> dict[str, Any]:
    return {name: value for name, value in item.options.items() if name in CHAT_OPTIONS}
