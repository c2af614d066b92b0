"""CallNotes: says once what calls do not get, where they get something else without an error."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import combinations

from sage.common.components.sage_vllm.engine_contract import EngineInfo
from sage.common.components.sage_vllm.pool.pool_entry import PoolEntry
from sage.common.components.sage_vllm.requests.inputs import PromptItem

logger = logging.getLogger(__name__)

_TEXT = (
    "%r is a chat model, and continues a prompt that is a text by itself, without its chat "
    "template. For an answer pass a conversation, [{'role': 'user', 'content': ...}], or give the "
    "operator a system_prompt=, which may be ''. {'prompt': text} says that it is to be continued"
)
_LIMIT = (
    "max_tokens=%d is more than %r can generate: its context is %d tokens, those of the prompt "
    "included. An answer that reaches its end has the finish_reason 'length'"
)

_EQUAL = (
    "the models %r and %r are two engines of %r with equal options, which take twice the memory; "
    "one serves any number of callers, and sampling options are each call's or operator's"
)


class CallNotes:
    """Looks at the prompts of a service; each note is logged once for each of its models."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str]] = set()

    def look(self, info: EngineInfo, items: Sequence[PromptItem]) -> None:
        """Note a text that a chat model will not answer, and a limit that no answer can reach."""
        for item in items:
            if info.chat_marks is not None and isinstance(item.prompt, str) and not item.as_is:
                self._look_at_text(info, item.prompt)
            limit = item.options.get("max_tokens")
            if limit is not None and limit >= info.max_model_len:
                self._say(_LIMIT, info.model_id, limit, info.model_id, info.max_model_len)

    def look_at_models(self, entries: Sequence[PoolEntry]) -> None:
        """Note two engines that are the same: one serves any number of callers."""
        for one, other in combinations(entries, 2):
            if one.spec is not None and one.spec == other.spec:
                logger.warning(_EQUAL, one.name, other.name, one.spec.model_id)

    def _look_at_text(self, info: EngineInfo, text: str) -> None:
        if not any(map(text.__contains__, info.chat_marks or ())):
            self._say(_TEXT, info.model_id, info.model_id)

    def _say(self, note: str, model_id: str, *facts: object) -> None:
        if (note, model_id) not in self._said:
            self._said.add((note, model_id))
            logger.warning(note, *facts)
