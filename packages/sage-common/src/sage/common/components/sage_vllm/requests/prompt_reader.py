"""PromptReader: from what a caller passes to prompts with all options that hold for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sage.common.components.sage_vllm.adapters.lora_adapter import LoraAdapters
from sage.common.components.sage_vllm.cache.result_caches import ResultCaches
from sage.common.components.sage_vllm.engine_contract import LoraAdapter
from sage.common.components.sage_vllm.requests.chat.chat_options import for_prompt, in_our_forms
from sage.common.components.sage_vllm.requests.inputs import PromptItem, parse_prompts
from sage.common.components.sage_vllm.requests.media.content_parts import (
    has_images,
    with_sources,
)
from sage.common.components.sage_vllm.requests.media.media_policy import MediaPolicy
from sage.common.components.sage_vllm.requests.sampling_options import (
    check_own_options,
    check_sampling_options,
)


class PromptReader:
    """Reads prompts in all their shapes.

    ``defaults`` returns the options that hold for a model where nobody gives others, by the model's
    name; it raises what is wrong with the name. ``policy`` holds for the pictures in prompts.
    """

    def __init__(
        self,
        defaults: Callable[[str | None], Mapping[str, Any]],
        adapters: LoraAdapters,
        caches: ResultCaches,
        policy: MediaPolicy,
    ) -> None:
        self._defaults = defaults
        self._adapters = adapters
        self._caches = caches
        self._policy = policy

    def parse(self, prompts: Any) -> list[PromptItem]:
        """Return an item per prompt with its own options alone; raises InvalidInputError."""
        return [
            item._replace(prompt=with_sources(item.prompt, self._policy))
            if has_images(item.prompt)
            else item
            for item in parse_prompts(prompts)
        ]

    def read(self, prompts: Any, options: Mapping[str, Any]) -> list[PromptItem]:
        """Return an item per prompt; its own options override the call's, and those the defaults.

        Raises ValueError for a shape or an option that is not valid, and what finding a LoRA
        adapter raises.
        """
        items = self.parse(prompts)
        found: dict[str, LoraAdapter] = {}
        if all(not item.options for item in items):
            model, shared = self._complete(options, found)
            return [
                item._replace(options=for_prompt(item.prompt, options, shared), model=model)
                for item in items
            ]
        for item in items:
            check_own_options(item.options, "the options of a prompt")
        given = [{**options, **item.options} for item in items]
        own = [self._complete(each, found) for each in given]
        return [
            item._replace(options=for_prompt(item.prompt, each, complete), model=model)
            for item, each, (model, complete) in zip(items, given, own, strict=True)
        ]

    def _complete(
        self, given: Mapping[str, Any], found: dict[str, LoraAdapter]
    ) -> tuple[str | None, Mapping[str, Any]]:
        """Return the model that is named, and all options but that."""
        check_sampling_options(given, "the options of generate")
        model = given.get("model")
        options = {**self._defaults(model), **given}
        if "model" in given:
            del options["model"]
        in_our_forms(options)
        cache = self._caches.of(options)
        if cache is not None or "cache" in options:
            options["cache"] = cache
        if (name := options.get("lora")) is not None:
            if name not in found:
                found[name] = self._adapters.find(name)
            options["lora"] = found[name]
        return model, options
