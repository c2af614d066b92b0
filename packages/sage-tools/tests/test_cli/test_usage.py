"""`sage` used wrongly, without a command, and from a shell's completion."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
from command_line import lines, refused
from hub_faults import Body, Fault
from model_files import safetensors
from recorded_server import server

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


class TestFlagsOfEarlierSage:
    """Programs written for the servers of earlier SAGE keep their flags."""

    @pytest.mark.parametrize("how", [["--port", "8000"], ["8000", "--port", "8000"]])
    @pytest.mark.parametrize("force", [[], ["-f"]])
    def test_stop_by_port(
        self, how: list[str], force: list[str], sage: CommandLine, environment: dict[str, str]
    ) -> None:
        with server(environment) as process, server(environment, 8001) as other:
            done = sage("llm", "stop", *how, *force, **environment)
            verb = "Killed" if force else "Stopped"
            assert lines(done) == [f"{verb} chat on port 8000 (pid {process.pid})."]
            assert process.wait(60) == -(signal.SIGKILL if force else signal.SIGTERM)
            assert other.poll() is None
            refused(sage("llm", "stop", "--port", "8000", **environment), "'8000'", "on port 8001")
            refused(
                sage("llm", "stop", "8001", "--port", "8002", **environment), "two servers", code=2
            )

    def test_status_of_a_port(self, sage: CommandLine, environment: dict[str, str]) -> None:
        with server(environment, 8001), server(environment, 8002):
            done = sage("llm", "status", "--port", "8002", "--json", **environment)
            assert [each["port"] for each in json.loads(done.stdout)] == [8002]
            none = sage("llm", "status", "--port", "8003", **environment)
            assert lines(none) == []
            assert none.stderr.startswith("Nothing runs on port 8003.")

    def test_start_takes_its_port_in_short(self, sage: CommandLine) -> None:
        refused(sage("llm", "start", "-p", "0"), "--port", "'-p'", code=2)

    def test_a_download_without_progress(
        self, sage: CommandLine, hub: LocalHub, files: dict[str, bytes]
    ) -> None:
        hub.add_model(MODEL, files)
        done = sage("llm", "model", "download", MODEL, "--no-progress")
        assert len(lines(done)) == 1
        assert done.stderr.splitlines()[-1].endswith("is complete and verified.")
        assert "asking the hub" not in done.stderr

    def test_what_an_embedding_model_is_for(
        self, sage: CommandLine, imported: vllm_registry.ModelInfo
    ) -> None:
        run = ("llm", "run", "--embedding-model", MODEL)
        refused(sage(*run, "--estimate"), "--embed", code=2)
        refused(sage(*run, "-m", "a/b", "--embed", "-p", "x"), "two models", code=2)
        hidden = sage("llm", "run", "-p", "x", "--json", "--hide-reasoning")
        refused(hidden, "answers that a terminal shows", code=2)
        done = sage(*run, "--embed", "--estimate")
        assert f"Model:    {MODEL}" in lines(done)


def test_a_registry_of_earlier_sage_names_the_command_that_migrates_it(
    sage: CommandLine, source: Path, root: Path
) -> None:
    root.mkdir()
    source.rename(root / "owner__name")
    entry = {"path": str(root / "owner__name"), "revision": None, "last_used": 1.0, "tags": []}
    gone = {**entry, "path": "/nowhere/owner__gone"}
    (root / "metadata.json").write_text(json.dumps({MODEL: entry}))
    for command in (["model", "show"], ["run", "-p", "Hello"], ["start"], ["model", "verify"]):
        refused(sage("llm", *command), "isage 0.1 or 0.2", "Run `sage llm model migrate`")
    (said,) = lines(sage("llm", "model", "migrate"))
    assert said == f"{MODEL}: 5 files, taken over"
    assert lines(sage("llm", "model", "verify")) == [f"{MODEL} main: 5 files, all right"]
    again = sage("llm", "model", "migrate")
    assert (lines(again), again.stderr.startswith("Nothing to migrate")) == ([], True)
    (root / "metadata.json").write_text(json.dumps({"owner/gone": gone}))
    done = sage("llm", "model", "migrate", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["models"] == []
    assert "not a folder" in report["left"]["owner/gone"]
    assert "sage llm model download owner/gone" in done.stderr
