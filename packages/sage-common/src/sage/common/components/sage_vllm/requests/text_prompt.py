"""What stands before a text that is embedded: one of the model's prompts, by its name."""

from __future__ import annotations

from sage.common.components.sage_vllm.engine_contract import EngineInfo
from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.core.errors import nearest


def text_prompt(info: EngineInfo, name: str | None) -> str:
    """Return the prompt of this name; of none the model's default, where it has one.

    Raises InvalidOptionError for a name that the model does not have.
    """
    name = info.default_prompt if name is None else name
    if name is None:
        return ""
    if name not in info.prompts:
        known = list(info.prompts)
        raise InvalidOptionError(
            "prompt_name",
            name,
            f"{info.model_id!r} has no prompt {name!r}",
            hint=nearest(name, known) if known else "it has none: put it into the text yourself",
        )
    return info.prompts[name]
