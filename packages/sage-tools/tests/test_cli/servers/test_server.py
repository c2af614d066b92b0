"""`sage llm start` and `logs`: vLLM's own server on the tiny model, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import TIMEOUT, CommandLine, Terminal, lines, refused
from real_server import MODEL, SMALL, complete, free_port, gone, recorded

from sage.common.run_folder import start_ticks

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def started(servers: CommandLine) -> tuple[Terminal, int]:
    """A terminal of 40 columns in which a server was started in the background, and its port."""
    port = free_port()
    terminal = servers.terminal(
        "llm", "start", "-m", MODEL, "--port", str(port), "-d", *SMALL, columns=40
    )
    assert terminal.finish() == 0, terminal.text
    return terminal, port


@pytest.fixture
def served(started: tuple[Terminal, int]) -> dict[str, Any]:
    """The record of that server, shared by all that only ask it something."""
    return recorded(started[1])


class TestAServerInTheBackground:
    def test_is_shown_in_place_while_it_starts(
        self, started: tuple[Terminal, int], served: dict[str, Any]
    ) -> None:
        terminal, port = started
        drawn = [part for part in terminal.raw.split("\r\x1b[K") if "Starting tiny-chat" in part]
        assert len({part.split(": ", 1)[1] for part in drawn}) > 1  # more than one phase
        assert all(len(part) < 40 for part in drawn)
        shown = terminal.raw.rpartition("\r\x1b[K")[2].splitlines()
        assert shown[0] == f"http://127.0.0.1:{port}/v1"
        assert f"pid {served['pid']}" in shown[1]
        assert "sage llm run" in shown[2]
        assert "register_vllm_service" in shown[2]

    def test_serves_the_model_by_its_id(self, served: dict[str, Any], servers: CommandLine) -> None:
        answer = complete(served["url"])
        assert answer["model"] == MODEL
        assert answer["usage"]["completion_tokens"] == 4
        assert (served["kind"], served["state"]) == ("server", "ready")
        assert served["start_ticks"] == start_ticks(served["pid"])
        command = Path(f"/proc/{served['pid']}/cmdline").read_text().split("\0")
        assert command[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
        assert "--enforce-eager" in command

    def test_is_seen_by_status_with_its_figures(
        self, served: dict[str, Any], servers: CommandLine
    ) -> None:
        (before,) = json.loads(servers("llm", "status", "--json").stdout)
        complete(served["url"])
        (after,) = json.loads(servers("llm", "status", "--json").stdout)
        assert after["requests_done"] == before["requests_done"] + 1
        _, row = lines(servers("llm", "status"))
        assert row.split()[:6] == [
            "tiny-chat", MODEL, "server", str(served["pid"]), str(served["port"]), "ready",
        ]  # fmt: skip

    def test_that_hangs_does_not_hang_status(
        self, served: dict[str, Any], servers: CommandLine
    ) -> None:
        os.kill(served["pid"], signal.SIGSTOP)
        try:
            (record,) = json.loads(servers("llm", "status", "--json").stdout)
            assert record["state"] == "not answering"
        finally:
            os.kill(served["pid"], signal.SIGCONT)
        give_up = time.monotonic() + TIMEOUT
        while record["state"] != "ready" and time.monotonic() < give_up:
            (record,) = json.loads(servers("llm", "status", "--json").stdout)
        assert record["state"] == "ready"

    def test_keeps_its_port_from_others(self, served: dict[str, Any], servers: CommandLine) -> None:
        port = str(served["port"])
        done = servers("llm", "start", MODEL, "--port", port)
        refused(done, f"Port {port} is taken by the server of {MODEL}", f"pid {served['pid']}")
        free = re.search(r"--port (\d+)$", done.stderr.strip())
        assert free is not None
        socket.create_server(("127.0.0.1", int(free[1]))).close()

    def test_logs_show_its_end_and_follow_it(
        self, served: dict[str, Any], servers: CommandLine
    ) -> None:
        assert Path(served["log"]).stat().st_mode & 0o777 == 0o600
        for which in ([], ["tiny-chat"], [str(served["port"])]):
            assert len(lines(servers("llm", "logs", *which, "-n", "3"))) == 3
        everything = lines(servers("llm", "logs", "-n", "100000"))
        assert "Application startup complete." in "\n".join(everything)
        assert "/health" not in "\n".join(everything[-5:])
        terminal = servers.terminal("llm", "logs", "-f", "-n", "1")
        assert "GET /v1/models" not in terminal.read_until("\n")
        urllib.request.urlopen(f"{served['url']}/models").close()
        terminal.read_until("GET /v1/models")
        terminal.type("\x03")
        assert terminal.finish() == 0
        assert "Traceback" not in terminal.text

    def test_stopped_it_leaves_no_process_and_no_record_but_its_log(
        self,
        served: dict[str, Any],
        servers: CommandLine,
        session_members: Callable[[int], list[str]],
    ) -> None:
        pid, port = served["pid"], str(served["port"])
        assert any("EngineCore" in each for each in session_members(pid))
        follower = servers.start("llm", "logs", "-f", "-n", "1")
        assert follower.stdout is not None
        assert follower.stdout.readline()
        assert lines(servers("llm", "stop", port, "--timeout", "100")) == [
            f"Stopped tiny-chat on port {port} (pid {pid})."
        ]
        assert session_members(pid) == []
        assert follower.wait(TIMEOUT) == 0  # what it follows has ended
        assert servers("llm", "stop").stderr == "No server is running.\n"
        assert json.loads(servers("llm", "status", "--json").stdout) == []
        assert lines(servers("llm", "logs", port, "-n", "1"))
        refused(servers("llm", "logs"), "No server is running", "PORT")


class TestInTheForeground:
    @pytest.mark.parametrize(
        ("how", "code", "said"),
        [
            (["--timeout", "100"], 0, "The server was stopped."),
            (["--force"], 1, "Error: The server was killed."),
        ],
    )
    def test_is_told_that_it_was_stopped(
        self, how: list[str], code: int, said: str, port: int, servers: CommandLine
    ) -> None:
        process = servers.start("llm", "start", MODEL, "--port", str(port), *SMALL)
        assert process.stdout is not None
        assert process.stdout.readline() == f"http://127.0.0.1:{port}/v1\n"
        assert lines(servers("llm", "stop", str(port), *how))
        _, err = process.communicate(timeout=TIMEOUT)
        assert (process.returncode, said in err.splitlines()) == (code, True), err

    def test_ctrl_c_ends_a_server_in_the_foreground(
        self, port: int, servers: CommandLine, session_members: Callable[[int], list[str]]
    ) -> None:
        terminal = servers.terminal("llm", "start", MODEL, "--port", str(port), *SMALL, columns=200)
        terminal.read_until(f"http://127.0.0.1:{port}/v1\r\n")
        record = recorded(port)
        assert complete(record["url"])["model"] == MODEL
        refused(servers("llm", "logs", str(port)), "in the foreground", "--background")
        terminal.type("\x03")
        assert terminal.finish() == 130
        assert terminal.text.splitlines()[-2].endswith("Error: Interrupted.")
        gone(record["pid"], session_members)

    @pytest.mark.parametrize("background", [[], ["-d"]])
    def test_ctrl_c_while_it_starts(
        self,
        background: list[str],
        port: int,
        servers: CommandLine,
        session_members: Callable[[int], list[str]],
    ) -> None:
        terminal = servers.terminal("llm", "start", MODEL, "--port", str(port), *background, *SMALL)
        record = recorded(port, lambda record: record["pid"] != terminal.process.pid)
        terminal.type("\x03")
        assert terminal.finish() == 130
        gone(record["pid"], session_members)
        assert "Traceback" not in terminal.text

    @pytest.mark.parametrize("ended_by", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
    def test_a_server_in_the_foreground_ends_with_its_command(
        self,
        ended_by: signal.Signals,
        port: int,
        servers: CommandLine,
        session_members: Callable[[int], list[str]],
    ) -> None:
        process = servers.start("llm", "start", MODEL, "--port", str(port), *SMALL)
        record = recorded(port, lambda record: record["pid"] != process.pid)
        process.send_signal(ended_by)
        process.communicate(timeout=TIMEOUT)
        gone(record["pid"], session_members)
