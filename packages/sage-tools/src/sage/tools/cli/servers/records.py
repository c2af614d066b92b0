"""What runs on this machine: servers that `sage llm start` started, and services of programs."""

from __future__ import annotations

from typing import Any

from sage.common.run_folder import read_records
from sage.tools.cli.errors import CommandError

Record = dict[str, Any]


def running(kind: str | None = None) -> list[Record]:
    """Return the records of all that runs, or of one kind, ``server`` or ``service``."""
    return [record for record in read_records() if kind in (None, record.get("kind"))]


def matching(records: list[Record], target: str) -> list[Record]:
    """Those whose port or process id, name or model is ``target``."""
    return [
        record
        for record in records
        if target in (str(record.get("port")), str(record["pid"]))
        or target in (record["name"], record["model_id"])
    ]


def one_server(target: str | None) -> Record | None:
    """Return the server that is meant; without a target the only one, None if none runs.

    Raises CommandError where several could be meant, or none is what ``target`` says.
    """
    servers = running("server")
    found = servers if target is None else matching(servers, target)
    if len(found) > 1:
        raise CommandError(
            f"{len(found)} servers are running: {listed(found)}.", "Give the port of one of them."
        )
    if found or target is None:
        return found[0] if found else None
    services = matching(running("service"), target)
    if services:
        raise CommandError(
            f"{target!r} is a service inside the program {services[0]['program']!r} "
            f"(pid {services[0]['pid']}), to which it belongs.",
            "End the program, or have it close the service.",
        )
    raise CommandError(
        f"No server runs that {target!r} could mean.",
        f"Running: {listed(servers)}." if servers else "`sage llm status` shows what runs.",
    )


def listed(servers: list[Record]) -> str:
    """Servers in a sentence."""
    return ", ".join(f"{server['name']} on port {server['port']}" for server in servers)


def reached(host: str) -> str:
    """Return the address by which this machine reaches a server that listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
