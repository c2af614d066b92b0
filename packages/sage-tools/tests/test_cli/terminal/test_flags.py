"""The flags that errors name as the way out: the commands that show these errors have them."""

from __future__ import annotations

import dataclasses

import pytest
import typer

from sage.common.core.errors import SageError, Setting
from sage.tools.cli.commands.options.engine_options import EngineOptions
from sage.tools.cli.commands.options.sampling_options import SamplingOptions
from sage.tools.cli.main import app
from sage.tools.cli.terminal.flags import FLAGS, hint_in_flags

SHOWN_BY = {
    "engine": ("run", "start", "bench"),
    "embedding_engine": ("run", "start", "bench"),
    "sampling": ("run",),
}
"""The commands that build engines, and the one that generates."""


def flags_of(command: str) -> dict[str, str]:
    """Its flags, and by which name Python has each."""
    llm = typer.main.get_command(app).commands["llm"]  # type: ignore[attr-defined]  # it is a group
    params = llm.commands[command].params
    return {flag: param.name for param in params for flag in param.opts}


@pytest.mark.parametrize("option", FLAGS)
def test_every_flag_is_one_of_the_commands_that_show_it(option: str) -> None:
    group, _, name = option.partition(".")
    for command in SHOWN_BY[group]:
        assert flags_of(command)[FLAGS[option]] == name


def test_every_option_of_an_engine_and_of_sampling_has_its_flag() -> None:
    engine = {field.name for field in dataclasses.fields(EngineOptions)}
    sampling = {field.name for field in dataclasses.fields(SamplingOptions)}
    assert set(FLAGS) == {
        *(f"{group}.{name}" for group in ("engine", "embedding_engine") for name in engine),
        *(f"sampling.{name}" for name in sampling),
    }


def test_a_hint_has_the_flag_with_its_value_where_there_is_one() -> None:
    settings = (Setting("engine.max_model_len", 2048, "or less"), Setting("engine.block_size", 8))
    error = SageError("too large", hint="free memory, or set", settings=settings)
    assert hint_in_flags(error) == "free memory, or set --max-model-len 2048 or less"
    error = SageError("too large", settings=settings[1:])
    assert hint_in_flags(error) == "set engine={'block_size': 8}"
    assert hint_in_flags(SageError("no way out")) is None
