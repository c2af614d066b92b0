"""The flags of the commands for options of the configuration, by which errors name a way out."""

from __future__ import annotations

import json

from sage.common.core.errors import SageError, Setting

_ENGINES = ("engine", "embedding_engine", "scoring_engine")
_ENGINE = ("dtype", "gpu_memory_utilization", "max_model_len", "tensor_parallel_size")
_SAMPLING = (
    "chat_template",
    "deadline",
    "frequency_penalty",
    "max_tokens",
    "min_p",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_p",
)

FLAGS = {
    f"{group}.{name}": f"--{name.replace('_', '-')}"
    for group, names in (*((engine, _ENGINE) for engine in _ENGINES), ("sampling", _SAMPLING))
    for name in names
} | {name: f"--{name.replace('_', '-')}" for name in ("allow_pickle", "engine_mode")}
FLAGS["sampling.thinking"] = "--think"
"""The flag for each option that has one.

`--embed` has the same ones set `embedding_engine`, and `--score` and `--classify` `scoring_engine`.
"""


def hint_in_flags(error: SageError) -> str | None:
    """Say what to do about an error, in the words of the command line."""
    return error.hint_with(in_flags)


def in_flags(setting: Setting) -> str | None:
    """Return a setting as it is typed; None for one that the command line does not have.

    An option of engines without a flag of its own is set by `--engine-option`.
    """
    flag = FLAGS.get(setting.option)
    group, _, name = setting.option.partition(".")
    value = "" if setting.value in (None, True) else str(setting.value)
    if flag is None and group in _ENGINES and name:
        shown = "..." if setting.value is None else json.dumps(setting.value, default=str)
        flag, value = "--engine-option", f"{name}={shown}"
    if flag is None:
        return None
    return " ".join(part for part in (flag, value, setting.qualifier) if part)
