"""How `stop`, `logs` and `status` are told a server."""

from __future__ import annotations

from typing import Annotated

import typer


def server_names(incomplete: str) -> list[str]:
    """Complete the port or name of a server that runs."""
    from sage.tools.cli.servers.records import running

    names = [name for each in running("server") for name in (str(each["port"]), each["name"])]
    return sorted(name for name in set(names) if name.startswith(incomplete))


Server = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME|PORT|PID",
        help="Which server, as `status` has it.",
        autocompletion=server_names,
    ),
]
Port = Annotated[
    int | None,
    typer.Option("--port", min=1, max=65535, help="The server that listens on this port."),
]
