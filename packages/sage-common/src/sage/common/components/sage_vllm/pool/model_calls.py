"""Calls that reach the models that their prompts name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Engine, OnText, Prompt, Role
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.pool.engine_slot import Expiry
from sage.common.components.sage_vllm.pool.pool_entry import PoolEntry
from sage.common.components.sage_vllm.requests.chat.chat_options import for_prompt, in_our_forms
from sage.common.components.sage_vllm.requests.gather import gather
from sage.common.components.sage_vllm.requests.generation_call import GenerationCall
from sage.common.components.sage_vllm.requests.inputs import PromptItem
from sage.common.components.sage_vllm.requests.result_types import GenerateResult
from sage.common.components.sage_vllm.requests.results import generation_result
from sage.common.components.sage_vllm.requests.sampling_options import check_sampling_options
from sage.common.components.sage_vllm.requests.token_count import TokenCount


def start_generation(
    pool: EnginePool,
    items: Sequence[PromptItem],
    *,
    return_errors: bool = False,
    on_text: OnText | None = None,
) -> Future[list[GenerateResult]]:
    """Start prompts, all or none; return a Future of the list that VLLMService.generate describes.

    Raises InvalidOptionError for a model that there is not, and what starting them raises.
    """
    model = items[0].model if items else None
    if len(items) > 1 and any(item.model != model for item in items):
        return _on_several(pool, items, return_errors=return_errors)
    call = GenerationCall(items, return_errors=return_errors, on_text=on_text)

    def start(engine: Engine) -> Future[Any]:
        pool.notes.look(engine.info, items)
        return call(engine)

    entry = pool.table.find(model, Role.GENERATE)
    expiry = None
    if items and "deadline" in items[0].options and (expires := call.expires) is not None:
        expiry = Expiry(at=expires, result=lambda: call.expired(entry.model_id))
    return pool.adapters.during(
        (item.options for item in items),
        lambda: entry.slot.call(start, work=len(items), expiry=expiry),
    )


def _on_several(
    pool: EnginePool, items: Sequence[PromptItem], *, return_errors: bool
) -> Future[list[GenerateResult]]:
    """Start each prompt on its own: a model that cannot be loaded fails its own prompts."""

    def combine(results: list[Any]) -> list[GenerateResult]:
        answers = []
        for item, result in zip(items, results, strict=True):
            if isinstance(result, Exception):
                model_id = pool.table.find(item.model, Role.GENERATE).model_id
                answers.append(generation_result(model_id, result))
            else:
                answers.append(result[0])
        return answers

    started = (start_generation(pool, [item], return_errors=return_errors) for item in items)
    return gather(started, combine, return_errors=return_errors, item="prompt")


def start_count(
    entry: PoolEntry, items: Sequence[PromptItem], chat_template: str | None
) -> Future[list[int]]:
    """Start counting the tokens of prompts, by the options that generating would have.

    Raises ValueError for an option of an item that is not valid.
    """
    given = {} if chat_template is None else {"chat_template": chat_template}
    counted = [
        item._replace(options=_rendering_options({**given, **item.options}, entry, item.prompt))
        for item in items
    ]
    return entry.slot.call(TokenCount(counted))


def _rendering_options(
    given: Mapping[str, Any], entry: PoolEntry, prompt: Prompt
) -> Mapping[str, Any]:
    check_sampling_options(given, "the options of a prompt")
    options = {**entry.sampling, **given}
    in_our_forms(options)
    return for_prompt(prompt, given, options)
