"""`sage llm stop`: ends what `start` started, and nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from sage.tools.cli.commands.options.model_options import Display
from sage.tools.cli.commands.options.server_options import Port, Server
from sage.tools.cli.terminal.output import write_data, write_json, write_note


def stop(
    *,
    server: Server = None,
    port: Port = None,
    every: Annotated[bool, typer.Option("--all", help="Stop every server.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds it may take to finish before it is killed.")
    ] = 10,
    force: Annotated[bool, typer.Option("--force", "-f", help="Kill it at once.")] = False,
    display: Display,
) -> None:
    """Stop a server that `start` started.

    Without a name, the only one. Where nothing runs there is nothing to do, which is no failure;
    a name, port or pid that no server has is one. Services inside programs are left alone.
    """
    from sage.common.components.sage_vllm.host.socket_folder import remove_abandoned
    from sage.tools.cli.servers.process import ServerProcess
    from sage.tools.cli.servers.records import one_server, running

    if port is not None and server not in (None, str(port)):
        raise typer.BadParameter(f"two servers were given: {server} and --port {port}")
    target = str(port) if port is not None else server
    if target is not None and every:
        raise typer.BadParameter("give one server or --all, not both")
    only = None if every else one_server(target)
    servers = running("server") if every else [] if only is None else [only]
    if not servers:
        write_note("No server is running.", quiet=display.is_bare)
    stopped = []
    for record in servers:
        process = ServerProcess.find(record)
        if process is None:  # what has its process id by now is none of ours
            write_note(f"{record['name']} has ended already.", quiet=display.is_bare)
            continue
        gently = process.end(0 if force else timeout)
        stopped.append({**record, "state": "stopped" if gently else "killed"})
        if not display.as_json:
            how = "Stopped" if gently else "Killed"
            write_data(f"{how} {record['name']} on port {record['port']} (pid {record['pid']}).")
    running()  # which removes their records
    remove_abandoned()
    if display.as_json:
        write_json(stopped)
