"""What runs, as a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sage.common.model_registry.vllm_registry import format_seconds
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
        write_table(_COLUMNS, [_row(record) for record in records])
        self._lines = len(records) + 1

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


def _model(record: Record) -> str:
    models = (record.get("model_id"), record.get("embedding_model_id"))
    return ", ".join(model for model in models if model) or _NONE


def _requests(record: Record) -> str:
    if record["requests_done"] is None:
        return _NONE
    parts = [f"{record['requests_done']} done"]
    parts += [f"{record[name]} {name}" for name in ("running", "waiting") if record[name]]
    return ", ".join(parts)


def _rate(rate: Any) -> str:
    return _NONE if rate is None else f"{rate:.0f}"
