"""PrintSink: writes each record to standard output."""

from __future__ import annotations

from typing import Any

from sage.common.core.functions import SinkFunction


class PrintSink(SinkFunction):
    """Prints records, each on a line, after an optional prefix."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = f"{prefix} " if prefix else ""

    def execute(self, record: Any) -> None:
        """Print one record."""
        print(f"{self._prefix}{record}", flush=True)
