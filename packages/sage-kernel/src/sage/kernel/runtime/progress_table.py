"""What a terminal shows of a run: a row for each operator and how far it all is.

The only module that imports rich, loaded when a display is drawn.
"""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from sage.kernel.runtime.metrics import RunMetrics
from sage.kernel.runtime.progress_text import Pace, printable, status

_NARROW = 64  # columns; below it numbers are short and what matters least is left out
_COLUMNS = ("in", "out", "waiting", "in flight", "errors", "per s")
_FEW_COLUMNS = ("out", "flight", "errors", "per s")


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
        if metrics.length:
            yield ProgressBar(metrics.length, min(metrics.done, metrics.length), min(width, 60))
            yield Segment.line()
        yield text

    def _table(self, width: int, rows: int) -> Table:
        wide = width >= _NARROW
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", expand=not wide)
        table.add_column("operator", no_wrap=True, overflow="ellipsis", ratio=None if wide else 1)
        for name in _COLUMNS if wide else _FEW_COLUMNS:
            table.add_column(name, justify="right", no_wrap=True)
        pairs = zip(self.metrics.operators, self._pace.rates(), strict=True)
        for operator, rate in list(pairs)[:rows]:
            numbers = [operator.records_out, operator.in_flight]
            if wide:
                numbers = [operator.records_in, operator.records_out]
                numbers += [operator.waiting, operator.in_flight]
            table.add_row(
                Text(printable(operator.name)),
                *(_number(number, wide=wide) for number in numbers),
                Text(_number(operator.errors, wide=wide), "red" if operator.errors else ""),
                _number(rate, wide=wide),
            )
        return table


def _number(number: float, *, wide: bool) -> str:
    if 0 < number < 10 and number != int(number):
        return f"{number:.2f}"
    if wide or number < 10_000:
        return f"{number:,.0f}"
    size = (len(f"{number:.0f}") - 1) // 3
    return f"{number / 1000**size:.3g}{' kMGT'[size]}"
