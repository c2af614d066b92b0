"""`sage llm status`: what runs in other processes, drawn for a terminal and for a pipe."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from command_line import lines
from real_server import free_port
from recorded_server import program, server, service

from sage.common.run_folder import read_records

if TYPE_CHECKING:
    from command_line import CommandLine

METRICS = """# HELP vllm:num_requests_running Number of requests
vllm:num_requests_running{engine="0",model_name="chat"} 2.0
vllm:num_requests_waiting{engine="0",model_name="chat"} 1.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="chat"} 3.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="chat"} 4.0
vllm:generation_tokens_total{engine="0",model_name="chat"} 1e+03
"""


@contextmanager
def answering(health: int, *metrics: str) -> Iterator[int]:
    """A port on which the two pages of a server that are asked for are answered.

    Of several ``metrics``, each is given once, and the last one from then on.
    """
    pages = list(metrics)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b""
            if self.path == "/metrics":
                body = (pages.pop(0) if len(pages) > 1 else pages[0]).encode()
            self.send_response(200 if self.path == "/metrics" else health)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield listener.server_port
        finally:
            listener.shutdown()
            thread.join()


@pytest.fixture
def unanswered() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed() -> int:
    """A port on which nobody listens."""
    return free_port()


def shown(sage: CommandLine, environment: dict[str, str]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(
        sage("llm", "status", "--json", **environment).stdout
    )
    return records


def test_where_nothing_runs_it_says_so(sage: CommandLine, environment: dict[str, str]) -> None:
    done = sage("llm", "status", **environment)
    assert lines(done) == []
    assert done.stderr == "Nothing runs. `sage llm start` starts a server.\n"
    assert sage("llm", "status", "--quiet", **environment).stderr == ""
    assert shown(sage, environment) == []


def test_a_service_in_another_process_is_seen_until_it_is_killed(
    sage: CommandLine, environment: dict[str, str]
) -> None:
    with service(environment) as host:
        began = time.monotonic()
        while (facts := read_records()[0])["requests_done"] != 7:
            assert time.monotonic() - began < 30
            time.sleep(0.01)  # its record follows within half a second
        assert facts["state"] == "ready"
        (record,) = shown(sage, environment)
        assert (record["kind"], record["name"], record["pid"]) == ("service", "writer", host.pid)
        assert (record["model_id"], record["state"]) == ("test/echo", "ready")
        assert record["uptime"] >= 0
        header, row = lines(sage("llm", "status", **environment))
        assert header.split() == ("NAME MODEL KIND PID PORT STATE UPTIME REQUESTS TOKENS/S".split())
        cells = row.split()
        assert cells[:6] == ["writer", "test/echo", "service", str(host.pid), "-", "ready"]
        assert cells[7:9] == ["7", "done"]
        host.kill()
        host.wait()
        assert shown(sage, environment) == []


def test_a_servers_figures_are_its_own_metrics(
    sage: CommandLine, environment: dict[str, str]
) -> None:
    with answering(200, METRICS) as port, server(environment, port):
        (record,) = shown(sage, environment)
        figures = [record[name] for name in ("state", "requests_done", "running", "waiting")]
        assert figures == ["ready", 7, 2, 1]
        assert record["tokens_per_second"] == 0  # asked twice, and no token came in between
        row = lines(sage("llm", "status", **environment))[1]
        assert "7 done, 2 running, 1 waiting" in row


@pytest.mark.parametrize(("embeds", "tokens"), [(False, 50), (True, 5000)])
def test_a_servers_rate_is_that_of_the_tokens_it_generates_or_embeds(
    *, embeds: bool, tokens: int, sage: CommandLine, environment: dict[str, str]
) -> None:
    before = METRICS + 'vllm:prompt_tokens_total{engine="0",model_name="chat"} 0.0\n'
    after = before.replace("1e+03", "1.05e+03").replace('"} 0.0', '"} 5e+03')
    with answering(200, before, after) as port, server(environment, port, embeds=embeds):
        (record,) = shown(sage, environment)
    # They came in the half second between two looks, or a little more.
    assert tokens / 5 < record["tokens_per_second"] <= 2 * tokens


def test_a_server_that_became_ready_when_nobody_waited_is_ready(
    sage: CommandLine, environment: dict[str, str]
) -> None:
    with answering(200, "") as port, server(environment, port, state="starting"):
        (record,) = shown(sage, environment)
        assert (record["state"], record["requests_done"]) == ("ready", 0)


def test_servers_that_do_not_answer_do_not_hang_it(
    sage: CommandLine, environment: dict[str, str], unanswered: int, closed: int
) -> None:
    with (
        answering(503, "") as broken,
        server(environment, broken),
        server(environment, unanswered),
        server(environment, closed),
        server(environment, closed, state="starting"),
    ):
        records = shown(sage, environment)
    states = [(record["port"], record["state"]) for record in records]
    assert sorted(states) == sorted(
        [
            (broken, "failed"),
            (unanswered, "not answering"),
            (closed, "not answering"),
            (closed, "starting"),
        ]
    )
    assert {record["tokens_per_second"] for record in records} == {None}


def test_a_proxy_is_not_asked(sage: CommandLine, environment: dict[str, str], closed: int) -> None:
    proxy = f"http://127.0.0.1:{closed}"
    with answering(200, METRICS) as port, server(environment, port):
        done = sage("llm", "status", "--json", **environment, http_proxy=proxy, HTTP_PROXY=proxy)
        assert json.loads(done.stdout)[0]["state"] == "ready"


@pytest.mark.parametrize(
    ("columns", "header"),
    [
        (120, "NAME MODEL KIND PID PORT STATE UPTIME REQUESTS TOKENS/S"),
        (40, "NAME PID PORT STATE TOKENS/S"),
    ],
)
def test_the_table_fits_its_terminal(
    columns: int, header: str, sage: CommandLine, environment: dict[str, str]
) -> None:
    with answering(200, METRICS) as port, server(environment, port), service(environment):
        terminal = sage.terminal("llm", "status", columns=columns, **environment)
        assert terminal.finish() == 0
    first, *rows = terminal.text.splitlines()
    assert " ".join(first.split()) == header
    assert all(len(line) <= columns for line in (first, *rows))
    assert [row.split()[0] for row in rows] == ["chat", "writer"]
    assert "\x1b[1m" in terminal.raw


def test_watch_draws_one_table_over_the_other_until_ctrl_c(
    sage: CommandLine, environment: dict[str, str]
) -> None:
    terminal = sage.terminal("llm", "status", "--watch", **environment)
    terminal.read_until("Nothing runs.")
    with service(environment) as host:
        terminal.read_until("writer")
        host.kill()
        host.wait()
        while terminal.raw.count("Nothing runs.") < 2:
            assert terminal._read()
    terminal.type("\x03")
    assert terminal.finish() == 0
    tables = [frame for frame in terminal.frames if "writer" in frame]
    assert tables
    assert all(frame.count("NAME") == 1 for frame in tables)
    assert "Traceback" not in terminal.text


def test_watch_without_a_terminal_or_colour_prints_table_after_table(
    sage: CommandLine, environment: dict[str, str]
) -> None:
    with service(environment):
        terminal = sage.terminal("llm", "status", "--watch", **environment, NO_COLOR="1")
        terminal.read_until("\r\n\r\nNAME")
        terminal.type("\x03")
        assert terminal.finish() == 0
        assert "\x1b" not in terminal.raw
        process = sage.start("llm", "status", "--watch", **environment)
        assert process.stdout is not None
        assert process.stderr is not None
        read = [process.stdout.readline() for _ in range(4)]
        assert read[2] == "\n"
        assert read[0].split() == read[3].split()  # columns may have become wider
        process.stdout.close()  # the reader leaves
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


def test_a_reader_that_leaves_early_is_no_error(
    sage: CommandLine, environment: dict[str, str]
) -> None:
    with service(environment):
        process = sage.start("llm", "status", **environment)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


def test_control_characters_are_shown_not_obeyed(
    sage: CommandLine, environment: dict[str, str], closed: int
) -> None:
    with server(environment, closed, name="\x1b[2Jchat"):
        assert "\x1b" not in sage("llm", "status", **environment).stdout
        assert r"\x1b[2Jchat" in sage("llm", "status", **environment).stdout


def test_a_server_that_ends_meanwhile_is_no_error(
    sage: CommandLine, environment: dict[str, str]
) -> None:
    code = "record = recorded(8000); ready('up'); sys.stdin.read(1)"
    with program(code, environment) as (process, _):
        assert process.stdin is not None
        assert len(read_records()) == 1
        process.stdin.close()
        process.wait(60)
        assert shown(sage, environment) == []
