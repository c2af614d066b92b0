"""What a terminal shows of a run: a row for each operator and how far it all is.

The only module that imports rich, loaded when a display is drawn.
"""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from sage.kernel.runtime.metrics.run_metrics import RunMetrics
from sage.kernel.runtime.progress.text import Pace, printable, replica_lines, status

_NARROW = 64  # columns; below it numbers are short and minor columns left out
_COLUMNS = {
    "in": "records_in",
    "out": "records_out",
    "waiting": "waiting",
    "in flight": "in_flight",
    "held": "held",
    "errors": "errors",
}
_FEW_COLUMNS = {"out": "records_out", "flight": "in_flight", "errors": "errors"}


class RunView:
    """Draws a run into whatever width there is; ``metrics`` and ``pace`` may change meanwhile."""

    def __init__(self, metrics: RunMetrics, pace: Pace) -> None:
        self.metrics = metrics
        self._pace = pace

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table, the bar and the status."""
        metrics = self.metrics
        width, rows = options.max_width, max(1, options.size.height - 5)
        yield self._table(width, rows)
        if len(metrics.operators) > rows:
            yield Text(f"and {len(metrics.operators) - rows} more operators")
        text = Text(
            f"{printable(metrics.name)}: {status(metrics, self._pace.time_left())}",
            no_wrap=True,
            overflow="ellipsis",
        )
        for line in replica_lines(metrics):
            yield Text(line, no_wrap=True, overflow="ellipsis")
        if metrics.length:
            yield ProgressBar(metrics.length, min(metrics.done, metrics.length), min(width, 60))
            yield Segment.line()
        yield text

    def _table(self, width: int, rows: int) -> Table:
        wide = width >= _NARROW
        operators = self.metrics.operators[:rows]
        fields = dict(_COLUMNS if wide else _FEW_COLUMNS)
        if not any(operator.held for operator in operators):
            fields.pop("held", None)
        lines = [("operator", *fields, "per s")]
        for operator, rate in zip(operators, self._pace.rates(), strict=False):
            numbers = [getattr(operator, field) for field in fields.values()]
            cells = [_number(number, wide=wide) for number in (*numbers, rate)]
            lines.append((printable(operator.name), *cells))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        widths[0] = min(
            widths[0], max(4, width - sum(widths[1:]) - 2 * len(widths))
        )  # it gives way
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name, column_width in zip(lines[0], widths, strict=True):
            table.add_column(name, justify="right", no_wrap=True, width=column_width)
        table.columns[0].justify = "left"
        for operator, line in zip(operators, lines[1:], strict=True):
            table.add_row(*map(Text, line), style="red" if operator.errors else None)
        return table


def _number(number: float, *, wide: bool) -> str:
    if 0 < number < 10 and number != int(number):
        return f"{number:.2f}"
    if wide or number < 10_000:
        return f"{number:,.0f}"
    size = (len(f"{number:.0f}") - 1) // 3
    return f"{number / 1000**size:.3g}{' kMGT'[size]}"
