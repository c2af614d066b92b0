"""The words for a run: a line while it goes on, and one at its end."""

from __future__ import annotations

import os
from collections import deque
from typing import TextIO

from sage.kernel.runtime.metrics.run_metrics import RunMetrics

_RECENT = 10.0  # seconds
_STATES = {
    "new": "not begun",
    "running": "left at work by the program's end",
    "ended": "ended",
    "failed": "failed",
    "cancelled": "closed before its end",
}


class Pace:
    """The pace of a run over the last ten seconds."""

    def __init__(self) -> None:
        self._read: deque[RunMetrics] = deque()

    def add(self, now: RunMetrics) -> None:
        """Add the metrics of this moment."""
        self._read.append(now)
        while now.elapsed - self._read[0].elapsed > _RECENT:
            self._read.popleft()

    def rates(self) -> list[float]:
        """Return the records that each operator finished per second."""
        before, now, seconds = self._span()
        if not seconds:
            return [operator.rate for operator in now.operators]
        pairs = zip(before.operators, now.operators, strict=True)
        return [max(0, new.finished - old.finished) / seconds for old, new in pairs]

    def time_left(self) -> float | None:
        """Return the seconds until the end at this pace."""
        before, now, seconds = self._span()
        if now.time_left is None or now.length is None:
            return None
        worked = now.done + now.held  # what waits for an earlier record costs no more time
        gained = worked - before.done - before.held
        if gained <= 0:
            return now.time_left
        return max(0, now.length - worked) * seconds / gained

    def _span(self) -> tuple[RunMetrics, RunMetrics, float]:
        before, now = self._read[0], self._read[-1]
        return before, now, now.elapsed - before.elapsed


def is_live(stream: TextIO) -> bool:
    """Whether colour and animation are welcome on a stream."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def running_line(metrics: RunMetrics, pace: Pace) -> str:
    """Return one line on a run that goes on."""
    parts = [f"{printable(metrics.name)}: {status(metrics, pace.time_left())}"]
    for operator, rate in zip(metrics.operators, pace.rates(), strict=True):
        said = [f"{printable(operator.name)} {operator.finished:,}"]
        if operator.in_flight:
            said.append(f"{operator.in_flight:,} in flight")
        if operator.held:
            said.append(f"{operator.held:,} held for an earlier one")
        if operator.errors:
            said.append(count(operator.errors, "error"))
        parts.append(f"{', '.join(said)} ({rate_text(rate)})")
    return " | ".join([*parts, *replica_lines(metrics)])


def replica_lines(metrics: RunMetrics) -> list[str]:
    """Return a line on each service that has replicas, or on the workers of operators."""
    lines = []
    for name, replicas in metrics.services.items():
        ready = sum(replica.state == "ready" for replica in replicas)
        said = [f"{printable(name)}: {ready} of {len(replicas)} ready"]
        if nodes := {replica.node for replica in replicas if replica.state == "ready"}:
            said.append(f"on {count(len(nodes), 'machine')}")
        said.append(f"{sum(replica.in_flight for replica in replicas):,} calls in flight")
        if deaths := sum(replica.deaths for replica in replicas):
            said.append(count(deaths, "death"))
        lines.append(", ".join(said))
    return lines


def status(metrics: RunMetrics, time_left: float | None) -> str:
    """Return how far a run is."""
    parts = []
    if metrics.length:
        parts.append(f"{min(100, 100 * metrics.done // metrics.length)}%")
        parts.append(f"{metrics.done:,} of {metrics.length:,}")
    parts.append(duration(metrics.elapsed))
    if time_left is not None:
        parts.append(f"{duration(time_left)} left")
    if metrics.done_before:
        parts.append(f"{metrics.done_before:,} done before")
    return ", ".join(parts)


def final_line(metrics: RunMetrics) -> str:
    """Return what became of a run."""
    heading = f"{printable(metrics.name)}: {_STATES[metrics.state]}"
    if not metrics.operators:
        done = f"{heading}, nothing was left to do"
        if metrics.checkpoint is None:
            return done
        return f"{done} in checkpoint {printable(metrics.checkpoint)}; delete it to run anew"
    sources = [operator for operator in metrics.operators if operator.kind == "source"]
    # What a source could not read has been read as well, and is told once more by its end.
    read = sum(each.records_out + each.skipped + each.dead_lettered for each in sources)
    sinks = [operator for operator in metrics.operators if operator.kind == "sink"]
    parts = [f"{read:,} read"]
    if metrics.length is not None and metrics.state != "ended":
        parts = [f"{read:,} of {metrics.length:,} read"]
    if sinks:
        parts.append(f"{sum(sink.records_out for sink in sinks):,} written")
    for word, number in (
        ("skipped", sum(operator.skipped for operator in metrics.operators)),
        ("dead-lettered", sum(operator.dead_lettered for operator in metrics.operators)),
        ("failed", sum(operator.failed for operator in metrics.operators)),
    ):
        if number:
            parts.append(f"{number:,} {word}")
    if metrics.done_before:
        parts.append(f"{metrics.done_before:,} done before")
    pace = f" ({rate_text(read / metrics.elapsed)})" if metrics.elapsed else ""
    return f"{heading} after {duration(metrics.elapsed)}: {', '.join(parts)}{pace}"


def count(number: int, noun: str) -> str:
    """Return a number of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def rate_text(rate: float) -> str:
    """Return records per second, to three digits or the whole number."""
    return f"{rate:.2f}/s" if 0 < rate < 10 else f"{rate:,.0f}/s"


def duration(seconds: float) -> str:
    """Return a time in the two largest units that it has."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def printable(text: str) -> str:
    """Make control characters, and all else that does not print, visible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
