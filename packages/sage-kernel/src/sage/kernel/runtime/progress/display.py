"""ProgressDisplay: shows a run from a thread of its own.

A terminal and a notebook's cell are drawn anew in place; all else is told in lines.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import TextIO

from sage.kernel.runtime.metrics.run_html import run_html
from sage.kernel.runtime.metrics.run_metrics import RunMetrics
from sage.kernel.runtime.progress.notebook import NotebookCell
from sage.kernel.runtime.progress.text import Pace, final_line, is_live, running_line, status

logger = logging.getLogger(__name__)

_REDRAW_EVERY = 0.15
_REDRAW_CELL_EVERY = 0.5  # what is sent travels to a browser
_FIRST_LINE_AFTER = 1.0
_LINE_EVERY = 5.0
_drawn = threading.Lock()  # held by the display that a terminal has; another's would tear it


class ProgressDisplay:
    """``start`` begins to show; ``end`` restores the terminal and leaves one last line.

    It only reads the run's counts. A run that ended well ends its display by itself. While one is
    drawn, a second run is told in lines above it.
    """

    def __init__(self, read: Callable[[], RunMetrics], stream: TextIO | None = None) -> None:
        self._read = read
        self._stream = stream or sys.stderr
        self._over = threading.Event()
        self._pace = Pace()
        self._cell = NotebookCell.here() if stream is None else None
        # A daemon: a pipeline that is left to itself must not keep the interpreter from ending.
        # It has the caller's context, by which a notebook knows the cell.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="sage-progress", daemon=True
        )

    def start(self) -> None:
        """Begin to show."""
        atexit.register(self.end)  # so that even then the cursor comes back
        self._thread.start()

    def end(self) -> None:
        """Take the display away and say what became of the run; may be called more than once."""
        self._over.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        atexit.unregister(self.end)

    def _run(self) -> None:
        try:
            if self._cell is not None:
                self._draw_cell(self._cell)
                return
            if is_live(self._stream) and _drawn.acquire(blocking=False):
                try:
                    self._draw()
                finally:
                    _drawn.release()
            else:
                self._write_lines()
            self._write(final_line(self._read()))
        except (OSError, ValueError) as error:  # the terminal or pipe is closed
            logger.debug("the display of progress ended: %r", error)

    def _readings(self, first: float, then: float) -> Iterator[RunMetrics]:
        """Yield what was done so far, after ``first`` seconds and then every ``then``."""
        self._pace.add(self._read())
        seconds = first
        while not self._over.wait(seconds):
            metrics = self._read()
            if metrics.state == "ended":
                return
            self._pace.add(metrics)
            yield metrics
            seconds = then

    def _write_lines(self) -> None:
        for metrics in self._readings(_FIRST_LINE_AFTER, _LINE_EVERY):
            self._write(running_line(metrics, self._pace))

    def _write(self, line: str) -> None:
        stream = sys.stderr if _drawn.locked() else self._stream  # above what another draws
        stream.write(f"{line}\n")
        stream.flush()

    def _draw_cell(self, cell: NotebookCell) -> None:
        for metrics in self._readings(_REDRAW_EVERY, _REDRAW_CELL_EVERY):
            said = f"{metrics.name}: {status(metrics, self._pace.time_left())}"
            cell.show(run_html(metrics, self._pace.rates(), said), said)
        metrics = self._read()
        said = final_line(metrics)
        cell.show(run_html(metrics, [each.rate for each in metrics.operators], said), said)

    def _draw(self) -> None:
        # Loading rich takes longer than a short pipeline runs.
        from rich.console import Console
        from rich.live import Live

        from sage.kernel.runtime.progress.table import RunView

        console = Console(file=self._stream)
        live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            # Output that does not go to the terminal must not be changed.
            redirect_stdout=sys.stdout.isatty(),
        )
        terminals = [stream for stream in (sys.stdout, sys.stderr) if stream.isatty()]
        with live, logs_above(terminals):
            for metrics in self._readings(_REDRAW_EVERY, _REDRAW_EVERY):
                live.update(RunView(metrics, self._pace), refresh=True)
            for stream in (sys.stdout, sys.stderr):
                stream.flush()  # a line that has not ended yet


@contextmanager
def logs_above(terminals: list[TextIO]) -> Iterator[None]:
    """Let handlers of logs that write to the terminal write above the display, as print() does."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    handlers = {
        handler: handler.stream
        for log in loggers
        if isinstance(log, logging.Logger)
        for handler in log.handlers
        if isinstance(handler, logging.StreamHandler)
        and handler.stream in terminals
        # That of logging.lastResort is sys.stderr at any time, and cannot be set.
        and not isinstance(getattr(type(handler), "stream", None), property)
    }
    for handler in handlers:
        handler.setStream(sys.stderr)  # which is the display's by now
    try:
        yield
    finally:
        for handler, its_own in handlers.items():
            handler.setStream(its_own)
