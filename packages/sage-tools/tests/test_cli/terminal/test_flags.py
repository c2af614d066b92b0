"""The flags that errors name as the way out: the commands that show these errors have them."""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from sage.common.components.sage_vllm import PickledWeightsError
from sage.common.core.errors import SageError, Setting
from sage.common.model_registry.vllm_registry import get_model, get_model_path, import_model
from sage.tools.cli.commands.options.engine_options import EngineOptions
from sage.tools.cli.commands.options.sampling_options import SamplingOptions
from sage.tools.cli.main import app
from sage.tools.cli.run.loading import Notes
from sage.tools.cli.servers.address import Address
from sage.tools.cli.servers.command import server_command
from sage.tools.cli.terminal.flags import FLAGS, hint_in_flags, in_flags

PACKAGES = Path(__file__).parents[4]
SHOWN_BY = {
    "allow_pickle": ("run", "start", "bench"),
    "engine_mode": ("run", "bench"),
    "engine": ("run", "start", "bench"),
    "embedding_engine": ("run", "start", "bench"),
    "scoring_engine": ("run", "start", "bench"),
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
        assert flags_of(command)[FLAGS[option]] == (name or group)


def test_every_option_of_an_engine_and_of_sampling_has_its_flag() -> None:
    engine = {field.name for field in dataclasses.fields(EngineOptions)}
    sampling = {field.name for field in dataclasses.fields(SamplingOptions)}
    engine.remove("engine_option")  # which sets all others, as the next one does
    sampling.remove("sampling_option")
    assert set(FLAGS) == {
        "allow_pickle",
        "engine_mode",
        *(
            f"{group}.{name}"
            for group in ("engine", "embedding_engine", "scoring_engine")
            for name in engine
        ),
        *(f"sampling.{name}" for name in sampling),
    }


def test_a_hint_has_the_flag_with_its_value_where_there_is_one() -> None:
    settings = (Setting("engine.max_model_len", 2048, "or less"), Setting("engine.block_size", 8))
    error = SageError("too large", hint="free memory, or set", settings=settings)
    assert hint_in_flags(error) == (
        "free memory, or set --max-model-len 2048 or less or --engine-option block_size=8"
    )
    for option, value, typed in (
        ("allow_pickle", True, "--allow-pickle"),
        ("engine_mode", "inline", "--engine-mode inline"),
        ("engine.trust_remote_code", True, "--engine-option trust_remote_code=true"),
        ("embedding_engine.kv_cache_memory_bytes", None, "--engine-option kv_cache_memory_bytes="),
        ("sampling.chat_template", None, "--chat-template"),
    ):
        assert str(hint_in_flags(SageError("no", option=option, value=value))).startswith(
            f"set {typed}"
        )
    assert hint_in_flags(SageError("no way out")) is None


def test_whatever_a_hint_names_can_be_typed() -> None:
    named = set()
    for path in PACKAGES.glob("*/src/**/*.py"):
        named |= set(re.findall(r'(?:\boption=|Setting\()f?"([^"]+)"', path.read_text()))
    assert {"allow_pickle", "{option}.trust_remote_code", "engine.max_lora_rank"} < named
    several = {name for name in named if name.startswith("models.")} | {"memory_budget"}
    for name in named - several:  # several models in one service are configured in Python alone
        option = re.sub(
            r"^\{[\w.]+\}", "engine", name.replace("{_SHARE}", "gpu_memory_utilization")
        )
        typed = in_flags(Setting(option))
        assert typed is not None, name
        assert typed.startswith("--")


@pytest.mark.parametrize(
    ("typed", "arguments"),
    [
        (["trust_remote_code=true"], {"trust_remote_code": True}),
        (["trust-remote-code=True", "seed=7"], {"trust_remote_code": True, "seed": 7}),
        (["quantization=awq"], {"quantization": "awq"}),
        (['hf_overrides={"a": [1]}'], {"hf_overrides": {"a": [1]}}),
        (["load_format=None", "tokenizer=a=b"], {"load_format": None, "tokenizer": "a=b"}),
    ],
)
def test_any_option_of_an_engine(typed: list[str], arguments: dict[str, Any]) -> None:
    assert EngineOptions(engine_option=typed).arguments() == arguments


@pytest.mark.parametrize("typed", ["trust_remote_code", "=3", "max_model_len=3"])
def test_what_is_no_option_of_an_engine(typed: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"is no NAME=VALUE|is given twice"):
        EngineOptions(max_model_len=8, engine_option=[typed]).arguments()


def test_a_servers_command_has_options_as_vllm_takes_them(
    model_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_VLLM_MODEL_ROOT", str(model_root))
    options = ["trust_remote_code=true", "enable_prefix_caching=false", 'hf_overrides={"a": 1}']
    command = server_command(
        get_model("test/tiny-chat"),
        Address("127.0.0.1", 1),
        arguments=EngineOptions(engine_option=options).arguments(),
        allow_pickle=False,
        extra=[],
    )
    assert "--trust-remote-code" in command
    assert "--no-enable-prefix-caching" in command
    assert command[command.index("--hf-overrides") + 1] == '{"a": 1}'


def test_pickled_weights_are_loaded_only_where_that_is_typed(
    model_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_VLLM_MODEL_ROOT", str(tmp_path / "models"))
    folder = tmp_path / "pickled"
    shutil.copytree(get_model_path("test/tiny-chat", root=model_root), folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    model, address = import_model("test/pickled", folder), Address("127.0.0.1", 1)
    with pytest.raises(PickledWeightsError) as caught:
        server_command(model, address, arguments={}, allow_pickle=False, extra=[])
    assert str(hint_in_flags(caught.value)).endswith("load them with --allow-pickle")
    assert server_command(model, address, arguments={}, allow_pickle=True, extra=[])


def test_what_a_service_logs_names_flags_too(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("sage", logging.WARNING, "", 1, "%s sets it", (), None)
    record.args = (Setting("engine.max_model_len"),)
    Notes().emit(record)
    assert capsys.readouterr().err == "--max-model-len sets it\n"
    assert record.getMessage() == "engine={'max_model_len': ...} sets it"
