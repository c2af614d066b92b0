"""What runs, as a table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sage.common.model_registry.vllm_registry import format_bytes, format_seconds
from sage.tools.cli.servers.figures import ServerFigures
from sage.tools.cli.servers.records import Record, running
from sage.tools.cli.terminal.output import is_rich
from sage.tools.cli.terminal.table import Column, write_table

_COLUMNS = (
    Column(title="NAME", priority=9),
    Column(title="MODEL", priority=2),
    Column(title="KIND", priority=4),
    Column(title="PID", priority=6, right=True),
    Column(title="PORT", priority=7, right=True),
    Column(title="STATE", priority=8),
    Column(title="UPTIME", priority=1, right=True),
    Column(title="REQUESTS", priority=3),
    Column(title="TOKENS/S", priority=5, right=True),
)
_NONE = "-"


class StatusView:
    """Tables of what runs, on one port or at all, ``in_place`` one over the other on a terminal."""

    def __init__(self, port: int | None, *, in_place: bool) -> None:
        self._port = port
        self._in_place = in_place and is_rich(sys.stdout)
        self._repeats = in_place and not self._in_place
        self._lines: int | None = None
        self._figures = ServerFigures()

    def records(self) -> list[Record]:
        """All that runs, with the figures of now and its ``uptime`` in seconds."""
        records = [record for record in running() if self._port in (None, record.get("port"))]
        self._figures.add_to([record for record in records if record["kind"] == "server"])
        now = datetime.now(tz=UTC)
        for record in records:
            started = datetime.fromisoformat(record["started"])
            record["uptime"] = max(0.0, round((now - started).total_seconds(), 1))
        return records

    def write(self, records: Sequence[Record]) -> None:
        """Print the table."""
        if self._repeats and self._lines is not None:
            print()
        self.clear()
        rows = [
            row
            for record in records
            for row in (_row(record), *_replica_rows(record), *_model_rows(record))
        ]
        write_table(_COLUMNS, rows)
        self._lines = len(rows) + 1

    def clear(self) -> None:
        """Take the table before off the screen."""
        if self._in_place and self._lines:
            sys.stdout.write(f"\x1b[{self._lines}A\r\x1b[J")
            sys.stdout.flush()
            self._lines = 0


def _row(record: Record) -> tuple[str, ...]:
    return (
        record["name"],
        _model(record),
        record["kind"],
        str(record["pid"]),
        str(record.get("port", _NONE)),
        record["state"],
        format_seconds(record["uptime"]),
        _requests(record),
        _rate(record["tokens_per_second"]),
    )


def _replica_rows(record: Record) -> list[tuple[str, ...]]:
    """Return a row for each replica of a service on a cluster, with the machine that it is on."""
    return [
        (
            f"  {replica['number']} on {replica['node'] or 'no machine yet'}",
            "",
            "replica",
            str(replica["process"] or _NONE),
            "",
            replica["state"],
            "",
            _of_replica(replica),
            "",
        )
        for replica in record.get("replicas") or ()
    ]


def _of_replica(replica: Mapping[str, Any]) -> str:
    deaths = replica["deaths"]
    parts = [f"{replica['finished']} done"]
    parts += [f"{replica['in_flight']} running"] if replica["in_flight"] else []
    parts += [f"{deaths} death{'' if deaths == 1 else 's'}"] if deaths else []
    return ", ".join(parts)


def _model_rows(record: Record) -> list[tuple[str, ...]]:
    """Return a row for each model of a service that has names for them."""
    models = record.get("models") or []
    if {model["name"] for model in models} <= {"text", "embedding"}:
        return []
    return [
        (
            f"  {model['name']}",
            model["model_id"],
            model["role"],
            "",
            "",
            model["state"],
            "",
            _of_model(model),
            "",
        )
        for model in models
    ]


def _of_model(model: Mapping[str, Any]) -> str:
    loads = model["loads"]
    parts = [f"{model['requests_done']} done"]
    parts += [f"{model['waiting']} waiting"] if model["waiting"] else []
    parts += [f"{loads} load{'' if loads == 1 else 's'}"]
    parts += [format_bytes(model["memory_bytes"])] if model["memory_bytes"] else []
    return ", ".join(parts)


def _model(record: Record) -> str:
    named = (record.get("model_id"), record.get("embedding_model_id"))
    several = len(record.get("models") or ())
    return ", ".join(model for model in named if model) or (
        f"{several} models" if several else _NONE
    )


def _requests(record: Record) -> str:
    if record["requests_done"] is None:
        return _NONE
    parts = [f"{record['requests_done']} done"]
    parts += [f"{record[name]} {name}" for name in ("running", "waiting") if record[name]]
    return ", ".join(parts)


def _rate(rate: Any) -> str:
    return _NONE if rate is None else f"{rate:.0f}"
