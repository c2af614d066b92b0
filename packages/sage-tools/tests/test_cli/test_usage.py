"""`sage` used wrongly, without a command, and from a shell's completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from command_line import lines, refused
from hub_faults import Body, Fault
from model_files import safetensors

from sage.common.model_registry import vllm_registry

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine
    from local_hub import LocalHub

MODEL = "owner/name"


@pytest.fixture
def imported(source: Path, root: Path) -> vllm_registry.ModelInfo:
    return vllm_registry.import_model(MODEL, source, tags={"team": "search"}, root=root)


@pytest.fixture
def adapter(tmp_path: Path, root: Path) -> str:
    """The id of a LoRA adapter."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 4}')
    (folder / "adapter_model.safetensors").write_bytes(safetensors(64))
    return vllm_registry.import_model("owner/adapter", folder, root=root).model_id


@pytest.mark.parametrize(
    "command", [["run", "-p", "Hello"], ["run", "--estimate"], ["bench"], ["start"]]
)
def test_an_adapter_is_no_model(command: list[str], adapter: str, sage: CommandLine) -> None:
    refused(sage("llm", *command, "--model", adapter), "LoRA adapter", "option `lora`")


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["modl"], "Did you mean 'model'"),
            (["model", "shwo"], "show"),
            (["model", "show", "--jsn"], "--json"),
            (["model", "show", "a", "--model", "b"], "two models"),
            (["model", "delete"], "which model"),
            (["model", "download", MODEL, "--source", "moon"], "hub"),
            (["model", "download", MODEL, "--workers", "0"], "1"),
            (["model", "download", MODEL, "--tag", "novalue"], "KEY=VALUE"),
            (["model", "prune", "--unused-days", "-3"], "0"),
            (["model", "import", MODEL], "FOLDER"),
            (["run", "--stop"], "sage llm run --help"),
            (["start", "--port"], "sage llm start --help"),
        ],
    )
    def test_wrong_use_is_code_2_and_points_to_the_help(
        self, arguments: list[str], said: str, sage: CommandLine
    ) -> None:
        refused(sage("llm", *arguments), said, "--help", code=2)

    def test_a_port_that_is_none_fails_plainly(self, sage: CommandLine) -> None:
        refused(sage("llm", "logs", "²"), "'²'")

    def test_an_id_that_is_none_fails_plainly(self, sage: CommandLine) -> None:
        refused(sage("llm", "model", "show", "../etc"), "'../etc'")

    @pytest.mark.parametrize("arguments", [[], ["llm"], ["llm", "model"]])
    def test_without_a_command_the_help_is_shown(
        self, arguments: list[str], sage: CommandLine
    ) -> None:
        assert sage(*arguments).stdout == sage(*arguments, "--help").stdout
        assert "Usage: sage" in sage(*arguments).stdout

    def test_version(self, sage: CommandLine) -> None:
        assert lines(sage("--version")) == ["1.0.0"]

    def test_completes_local_ids(
        self, sage: CommandLine, imported: vllm_registry.ModelInfo
    ) -> None:
        done = sage(
            _SAGE_COMPLETE="complete_bash", COMP_WORDS="sage llm model show own", COMP_CWORD="4"
        )
        assert done.stdout.split() == [MODEL]

    def test_an_unexpected_error_has_no_traceback_unless_asked_for(
        self, sage: CommandLine, root: Path
    ) -> None:
        root.write_text("a file where a folder should be")
        done = sage("llm", "model", "prune", "--yes")
        assert (done.returncode, done.stdout) == (0, "")  # a file holds no models
        done = sage("llm", "model", "import", MODEL, str(root.parent))
        assert done.returncode == 1
        assert "Traceback" not in done.stderr

    def test_answers_that_are_not_the_hubs(
        self, sage: CommandLine, hub: LocalHub, files: dict[str, bytes]
    ) -> None:
        hub.add_model(MODEL, files)
        hub.faults = [Fault("info", Body(b"<html>Log in</html>"))]
        refused(sage("llm", "model", "download", MODEL), MODEL, "HF_ENDPOINT")
