"""OptionChecks: tells of mistakes in a call's options before there is any input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sage.common.components.sage_vllm.engine_abilities import ChecksOptions
from sage.common.components.sage_vllm.engine_contract import Engine, Role
from sage.common.components.sage_vllm.errors import InvalidInputError
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.requests.prompt_reader import PromptReader
from sage.common.components.sage_vllm.requests.sampling_options import check_embedding_options
from sage.common.components.sage_vllm.requests.scoring.scoring_call import check_gives_score
from sage.common.components.sage_vllm.requests.scoring.scoring_options import (
    check_scoring_options,
)
from sage.common.components.sage_vllm.requests.text_prompt import text_prompt
from sage.common.core.errors import nearest

_ROLES = {
    "generate": Role.GENERATE,
    "embed": Role.EMBED,
    "score": Role.SCORE,
    "rerank": Role.SCORE,
    "classify": Role.SCORE,
    "reward": Role.SCORE,
}
_ASKED = [{"role": "user", "content": "a"}]  # options of conversations are for these alone


class OptionChecks:
    """The part of a VLLMService that looks at options by themselves."""

    _engines: EnginePool
    _prompts: PromptReader
    _check_open: Callable[[], None]

    def check_options(self, task: str = "generate", **options: Any) -> None:
        """Raise what these options of a task would raise for any input; load nothing.

        The operators ask it before the first record, so that a name that there is not ends a run
        at once. ``task`` is ``"generate"``, ``"embed"``, ``"score"``, ``"rerank"``,
        ``"classify"`` or ``"reward"``. What only an engine can tell is told if it is loaded.

        Raises:
            InvalidOptionError: an option does not exist, or does not accept its value; a model is
                not there, or none is named where there are several.
            WrongModelTypeError: the model does something else.
            ModelNotFoundError: there is no such adapter.
            InvalidRequestError: the engine refuses a value.
        """
        self._check_open()
        if task not in _ROLES:
            hint = nearest(str(task), list(_ROLES))
            raise InvalidInputError(task, f"unknown task {task!r}", hint=hint)
        role = Role.GENERATE if options.get("labels") is not None else _ROLES[task]
        if task == "generate":
            (item,) = self._prompts.read(_ASKED, options)
            loaded: object = self._engines.table.find(item.model, role).engine
            if isinstance(loaded, ChecksOptions):
                loaded.check_options(item.options)
            return
        engine = self._engines.table.find(options.get("model"), role).engine
        if (adapter := options.get("lora")) is not None:
            self._engines.adapters.find(adapter)
        if role is Role.EMBED:
            self._engines.caches.of(options)
            _check_embedding(engine, options)
            return
        flags = {name: options[name] for name in ("truncate", "activation") if name in options}
        check_scoring_options(on_error="raise", **flags)
        if engine is not None and task != "classify":
            check_gives_score(engine.info, task)


def _check_embedding(engine: Engine | None, options: Mapping[str, Any]) -> None:
    prompt_name = options.get("prompt_name")
    check_embedding_options(
        normalize=options.get("normalize", True),
        dimensions=options.get("dimensions"),
        truncate=options.get("truncate", False),
        prompt_name=prompt_name,
    )
    if engine is not None:
        text_prompt(engine.info, prompt_name)
