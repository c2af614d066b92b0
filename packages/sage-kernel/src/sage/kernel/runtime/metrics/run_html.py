"""run_html: what a notebook shows of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sage.kernel.runtime.html import html_table

if TYPE_CHECKING:
    from sage.kernel.runtime.metrics.run_metrics import RunMetrics

_COLUMNS = ("operator", "in", "out", "waiting", "in flight", "held", "errors", "retries", "per s")


def run_html(metrics: RunMetrics, rates: Sequence[float], said: str) -> str:
    """Return a row for each operator, below what is said of the run as a whole."""
    rows = [
        (
            operator.name,
            operator.records_in,
            operator.records_out,
            operator.waiting,
            operator.in_flight,
            operator.held,
            operator.errors,
            operator.retries,
            round(rate, 2) if rate < 10 else round(rate),
        )
        for operator, rate in zip(metrics.operators, rates, strict=True)
    ]
    return html_table(_COLUMNS, rows, said)
