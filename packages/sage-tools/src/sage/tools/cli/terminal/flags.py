"""The flags of the commands for options of the configuration, by which errors name a way out."""

from __future__ import annotations

from sage.common.core.errors import SageError, Setting

_ENGINES = ("engine", "embedding_engine")
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
}
"""The flag for each option that has one; `--embed` has the same ones set `embedding_engine`."""


def hint_in_flags(error: SageError) -> str | None:
    """Say what to do about an error, in the words of the command line."""
    return error.hint_with(_in_flags)


def _in_flags(setting: Setting) -> str | None:
    flag = FLAGS.get(setting.option)
    if flag is None:
        return None
    value = "" if setting.value is None else str(setting.value)
    return " ".join(part for part in (flag, value, setting.qualifier) if part)
