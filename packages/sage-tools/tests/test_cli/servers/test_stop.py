"""`sage llm stop`: it ends servers that `start` started, and never another process."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from command_line import lines, refused
from recorded_server import program, server, service

from sage.common.run_folder import RunRecord, read_records, start_ticks

if TYPE_CHECKING:
    from command_line import CommandLine

STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
record = recorded(8000)
child = subprocess.Popen(["sleep", "600"])
ready('up')
signal.pause()
"""


def test_nothing_to_stop_is_no_failure(sage: CommandLine, environment: dict[str, str]) -> None:
    for arguments in ([], ["--all"]):
        done = sage("llm", "stop", *arguments, **environment)
        assert lines(done) == []
        assert done.stderr == "No server is running.\n"
    assert json.loads(sage("llm", "stop", "--json", **environment).stdout) == []


def test_a_server_that_does_not_run_is_a_failure(
    sage: CommandLine, environment: dict[str, str]
) -> None:
    refused(sage("llm", "stop", "8000", **environment), "'8000'", "sage llm status")
    with server(environment):
        refused(sage("llm", "stop", "chta", **environment), "'chta'", "chat on port 8000")
        refused(sage("llm", "stop", "chat", "--all", **environment), "not both", code=2)


@pytest.mark.parametrize("how", ["", "chat", "test/chat", "8000", "PID"])
def test_ends_the_server_that_is_meant(
    how: str, sage: CommandLine, environment: dict[str, str]
) -> None:
    with server(environment) as process:
        target = [how.replace("PID", str(process.pid))] if how else []
        done = sage("llm", "stop", *target, **environment)
        assert lines(done) == [f"Stopped chat on port 8000 (pid {process.pid})."]
        assert process.wait(60) == -signal.SIGTERM
        assert read_records() == []
    assert sage("llm", "stop", **environment).returncode == 0  # twice does no harm


def test_several_servers_are_not_guessed_among(
    sage: CommandLine, environment: dict[str, str]
) -> None:
    with server(environment, 8001) as one, server(environment, 8002) as two:
        for target in ([], ["chat"]):
            refused(sage("llm", "stop", *target, **environment), "8001", "8002", "port")
        assert one.poll() is two.poll() is None
        done = sage("llm", "stop", "--all", "--json", **environment)
        assert {each["port"]: each["state"] for each in json.loads(done.stdout)} == {
            8001: "stopped",
            8002: "stopped",
        }
        assert one.wait(60) == two.wait(60) == -signal.SIGTERM


@pytest.mark.parametrize("how", [["--timeout", "0.5"], ["--force"]])
def test_what_does_not_end_is_killed_with_its_children(
    how: list[str],
    sage: CommandLine,
    environment: dict[str, str],
    session_members: Callable[[int], list[str]],
) -> None:
    with program(STUBBORN, environment) as (process, _):
        done = sage("llm", "stop", *how, **environment)
        assert lines(done) == [f"Killed chat on port 8000 (pid {process.pid})."]
        assert process.wait(60) == -signal.SIGKILL
        assert session_members(process.pid) == []


def test_children_that_stay_behind_are_ended_too(
    sage: CommandLine, environment: dict[str, str], session_members: Callable[[int], list[str]]
) -> None:
    code = STUBBORN.replace("signal.SIG_IGN", "lambda *_: sys.exit(0)")
    with program(code, environment) as (process, _):
        done = sage("llm", "stop", **environment)
        assert lines(done) == [f"Stopped chat on port 8000 (pid {process.pid})."]
        assert process.wait(60) == 0
        assert session_members(process.pid) == []


@pytest.mark.parametrize("how", [[], ["--force"], ["8000"], ["--all", "--json"]])
def test_another_process_with_the_id_of_a_server_is_never_signalled(
    how: list[str], sage: CommandLine, environment: dict[str, str]
) -> None:
    """The record is held, as by a child of a server that is gone; its process id was reused."""
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    its_child = subprocess.Popen(["sleep", "600"], process_group=0)
    ticks = start_ticks(bystander.pid)
    assert ticks is not None
    facts = {"name": "chat", "model_id": "test/chat", "host": "127.0.0.1", "port": 8000}
    record = RunRecord("server", **facts, state="ready", log=None)
    try:
        for started in (ticks - 1, ticks + 1, None):
            record.update(pid=bystander.pid, start_ticks=started)
            done = sage("llm", "stop", *how, **environment)
            assert done.returncode == 0
            assert "Stopped" not in done.stdout
            assert ("--json" in how) == (done.stdout == "[]\n")
            assert ("--json" in how) != (done.stderr == "chat has ended already.\n")
            assert bystander.poll() is its_child.poll() is None
        record.update(start_ticks=ticks)  # it would have been ended, had it been the one
        assert sage("llm", "stop", *how, **environment).returncode == 0
        assert bystander.wait(60) in (-signal.SIGTERM, -signal.SIGKILL)
    finally:
        record.remove()
        for process in (bystander, its_child):
            process.kill()
            process.wait()


def test_a_process_id_that_nobody_has_is_no_failure(
    sage: CommandLine, environment: dict[str, str]
) -> None:
    gone = subprocess.Popen(["true"])
    ticks = start_ticks(gone.pid)
    gone.wait()
    facts = {"name": "chat", "model_id": "test/chat", "host": "127.0.0.1", "port": 8000}
    record = RunRecord("server", **facts, state="ready", log=None)
    record.update(pid=gone.pid, start_ticks=ticks)
    done = sage("llm", "stop", **environment)
    assert (done.returncode, done.stderr) == (0, "chat has ended already.\n")
    record.remove()


def test_services_belong_to_their_programs(sage: CommandLine, environment: dict[str, str]) -> None:
    with service(environment) as host:
        for target in ("writer", str(host.pid)):
            for force in ([], ["--force"]):
                done = sage("llm", "stop", target, *force, **environment)
                refused(done, "inside the program", f"pid {host.pid}", "End the program")
        for arguments in ([], ["--all", "--force"]):
            done = sage("llm", "stop", *arguments, **environment)
            assert (done.returncode, done.stdout) == (0, "")
        assert host.poll() is None
        assert [record["pid"] for record in read_records()] == [host.pid]
