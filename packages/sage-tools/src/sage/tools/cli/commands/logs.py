"""`sage llm logs`: what a background server says."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from sage.tools.cli.commands.options.model_options import Json
from sage.tools.cli.commands.options.server_options import Server
from sage.tools.cli.errors import CommandError
from sage.tools.cli.terminal.output import write_data

_LOOK_EVERY = 0.2


def logs(
    server: Server = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C or the server's end.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="Lines of the end to show.")
    ] = 50,
    as_json: Json = False,
) -> None:
    """Show the log of a background server.

    Of one that runs, or by its port of the last one there. With --json, each line is an object.
    """
    from sage.tools.cli.servers.log import last_lines

    log = _log(server)
    end = log.stat().st_size
    write = _write_json if as_json else write_data
    for line in last_lines(log, lines, end=end):
        write(line)
    if follow:
        try:
            _follow(log, end, write)
        except KeyboardInterrupt:
            return  # which is how one leaves it


def _log(server: str | None) -> Path:
    from sage.tools.cli.servers.launch import log_path
    from sage.tools.cli.servers.records import matching, one_server, running

    if server is not None and server.isdecimal() and not matching(running("server"), server):
        last = log_path(int(server))
        if last.exists():
            return last
    record = one_server(server)
    if record is None:
        raise CommandError(
            "No server is running.", "`sage llm logs PORT` shows the last log of a port."
        )
    if record["log"] is None:
        raise CommandError(
            f"{record['name']} on port {record['port']} runs in the foreground of a terminal, and "
            "its log is there.",
            "`sage llm start --background` keeps a log.",
        )
    return Path(record["log"])


def _write_json(line: str) -> None:
    print(json.dumps({"line": line}))


def _follow(log: Path, end: int, write: Callable[[str], None]) -> None:
    """Print what is added to a log, to the end of the server that writes it."""
    from sage.tools.cli.servers.records import running

    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(end)
        begun = ""
        while True:
            is_written = any(each["log"] == str(log) for each in running("server"))
            *whole, begun = (begun + file.read()).split("\n")
            if not is_written:
                whole += [begun] if begun else []
            for line in whole:
                write(line)
            sys.stdout.flush()  # whoever reads it in a pipe gets it now
            if not is_written:
                return
            time.sleep(_LOOK_EVERY)
