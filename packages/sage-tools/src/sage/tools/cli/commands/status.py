"""`sage llm status`: the servers and services of this user that run."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from sage.tools.cli.commands.options.model_options import Display
from sage.tools.cli.commands.options.server_options import Port
from sage.tools.cli.terminal.output import write_json, write_note

_WATCH_SECONDS = 2.0


def status(
    *,
    port: Port = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again and again, until Ctrl-C.")
    ] = False,
    display: Display,
) -> None:
    """Show the servers and services that run.

    Servers are those of `sage llm start`, services are inside programs of this user.
    """
    from sage.tools.cli.servers.status_view import StatusView

    view = StatusView(port, in_place=watch and not display.as_json)
    idle = False
    try:
        while True:
            records = view.records()
            if display.as_json:
                write_json(records)
            elif records:
                view.write(records)
            elif not idle:
                view.clear()
                where = "" if port is None else f" on port {port}"
                write_note(
                    f"Nothing runs{where}. `sage llm start` starts a server.", quiet=display.quiet
                )
            sys.stdout.flush()  # whoever reads it in a pipe gets it now
            idle = not records
            if not watch:
                return
            time.sleep(_WATCH_SECONDS)
    except KeyboardInterrupt:
        if not watch:
            raise
