"""The counts behind RunMetrics: integers that one thread each writes and anybody may read.

No lock is taken for a record, and what other counts imply is not counted: a map on the thread of
the operator before it has received what that one emitted, and has emitted all but its errors.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from sage.common.core.functions import StartOrder
from sage.kernel.graph import Operator
from sage.kernel.runtime.metrics.run_metrics import OperatorMetrics, RunMetrics, State

_ONE_TO_ONE = ("map", "keyby", "union", "sink")


class Counts:
    """What one thread counts at one place of a pipeline.

    Where every nanosecond counts, ``out`` is a variable of the closure that handles the records,
    which takes half the time of an attribute, and ``variable_out`` reads it.
    """

    __slots__ = (
        "begun", "ended", "failed", "out", "overtaken", "retries", "settled", "start_order",
        "variable_out",
    )  # fmt: skip

    def __init__(self) -> None:
        self.begun = self.ended = self.failed = self.out = self.overtaken = self.retries = 0
        self.settled = 0  # of an asynchronous operator: begun, with an outcome, emitted or not
        self.start_order: StartOrder | None = None
        self.variable_out: Callable[[], int] = int  # which returns 0


class ErrorCounts:
    """What became of the records that an operator could not process.

    Its replicas share it: whoever changes a number holds ``lock``.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.skipped = self.dead_lettered = self.failed = 0
        self.first: BaseException | None = None
        """The first error that the run went on after."""

    @property
    def total(self) -> int:
        """Records that the operator could not process."""
        return self.skipped + self.dead_lettered + self.failed


class OperatorCounts:
    """Where the records of an operator come from, and what its threads count."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.upstream: dict[int, OperatorCounts] = {}  # those that emit to no other operator
        self.branches: list[Counts] = []  # of the others, what they emit to this one
        self.readers: list[Counts] = []  # of the threads that read its channels
        self.replicas: list[Counts] = []
        self.is_async = False
        self.errors: ErrorCounts | None = None
        self.source: Any = None  # the function, of a source
        self.length: int | None = None  # of a source: records that it will emit in this run

    @staticmethod
    def added(counts: list[Counts]) -> Counts:
        """Append new counts to one of the lists above and return them."""
        counts.append(Counts())
        return counts[-1]

    def measure(self, already_done: int) -> None:
        """Ask the source for its length; an earlier run may have done some of it already."""
        try:
            self.length = max(0, len(self.source) - already_done)
        except Exception:  # noqa: BLE001 - an estimate less must not cost the run
            self.length = None

    def handed(self) -> int:
        """Return how many records the operators before it emitted."""
        emitted = sum(operator.flow()[2] for operator in self.upstream.values())
        return emitted + sum(counts.out for counts in self.branches)

    def flow(self) -> tuple[int, int, int]:
        """Return how many records it began, finished and emitted.

        The later count is read first, so that no record seems to have ended before it began.
        """
        errors = self.errors.total if self.errors else 0
        out = sum(counts.out + counts.variable_out() for counts in self.replicas)
        if self.operator.kind == "source":
            return 0, 0, out - errors
        if self.is_async:
            ended = errors + sum(counts.ended for counts in self.replicas)
            begun = sum(counts.begun for counts in self.replicas)
        elif self.readers:
            ended = sum(counts.ended for counts in self.readers)
            begun = sum(counts.begun for counts in self.readers)
        else:
            begun = ended = self.handed()
        if self.operator.kind in _ONE_TO_ONE:
            out = ended - errors
        return begun, ended, max(0, out)

    def all_failed(self) -> ErrorCounts | None:
        """Return what became of its records if it lost each that came; None if it did not."""
        begun, _, out = self.flow()
        lost = 0 if self.errors is None else self.errors.skipped + self.errors.dead_lettered
        is_source = self.operator.kind == "source"
        return self.errors if lost and not out and (is_source or lost == begun) else None

    def read(self, elapsed: float) -> OperatorMetrics:
        """Return the counts as data."""
        settled = sum(counts.settled for counts in self.replicas)
        begun, ended, out = self.flow()
        done = max(ended, settled)  # also those that wait for an earlier one
        kind, errors = self.operator.kind, self.errors
        queued = self.is_async or bool(self.readers)
        finished = out if kind == "source" else done
        return OperatorMetrics(
            name=self.operator.name,
            kind=kind,
            records_in=begun,
            records_out=out,
            waiting=max(0, self.handed() - begun) if queued else 0,
            in_flight=max(0, begun - done),
            held=done - ended,
            skipped=errors.skipped if errors else 0,
            dead_lettered=errors.dead_lettered if errors else 0,
            failed=(errors.failed if errors else 0) + sum(c.failed for c in self.replicas),
            retries=sum(counts.retries for counts in self.replicas),
            overtaken=sum(counts.overtaken for counts in self.replicas),
            start_order=tuple(
                order.metrics() for c in self.replicas if (order := c.start_order) is not None
            ),
            rate=finished / elapsed if elapsed else 0.0,
        )


class RunCounts:
    """The counts of all operators of one run."""

    def __init__(self, name: str, operators: Iterable[Operator]) -> None:
        self._name = name
        self._operators = {operator.id: OperatorCounts(operator) for operator in operators}
        self._began: float | None = None
        self._ended: float | None = None
        self._done_before = 0
        self._checkpoint: str | None = None

    def __getitem__(self, operator: Operator) -> OperatorCounts:
        return self._operators[operator.id]

    def begin(self, already_done: int, checkpoint: str | None = None) -> None:
        """Note that records can move now; earlier runs with the checkpoint did some of them."""
        for counts in self._operators.values():
            counts.measure(already_done)
        self._done_before = already_done
        self._checkpoint = checkpoint
        self._began = time.monotonic()

    def end(self) -> None:
        """Note that no record moves any more."""
        self._ended = time.monotonic()

    def all_failed(self) -> tuple[str, ErrorCounts] | None:
        """Return the first operator that lost each of its records, with what became of them."""
        for counts in self._operators.values():
            if (errors := counts.all_failed()) is not None:
                return counts.operator.name, errors
        return None

    def read(self, state: State) -> RunMetrics:
        """Return the counts as data, those of the last operator read first."""
        if state == "running" and self._began is None:
            state = "new"
        elapsed = 0.0
        if self._began is not None:
            elapsed = (self._ended or time.monotonic()) - self._began
        read = {id_: self._operators[id_].read(elapsed) for id_ in reversed(self._operators)}
        sources = [c for c in self._operators.values() if c.operator.kind == "source"]
        lengths = [source.length for source in sources]
        consumers = self._consumers()
        through, worked = (
            [_through(source.operator.id, read, consumers, held=held) for source in sources]
            for held in (False, True)
        )
        known = [length for length in lengths if length is not None]
        return RunMetrics(
            name=self._name,
            state=state,
            elapsed=elapsed,
            operators=tuple(read[id_] for id_ in self._operators),
            length=sum(known) if len(known) == len(lengths) else None,
            done=sum(through),
            held=max(0, sum(worked) - sum(through)),
            time_left=_time_left(lengths, worked, elapsed) if state == "running" else None,
            done_before=self._done_before,
            checkpoint=self._checkpoint,
        )

    def _consumers(self) -> dict[int, list[int]]:
        consumers: dict[int, list[int]] = {id_: [] for id_ in self._operators}
        for counts in self._operators.values():
            for input_id in counts.operator.inputs:
                consumers[input_id].append(counts.operator.id)
        return consumers


def _through(
    source: int,
    read: dict[int, OperatorMetrics],
    consumers: dict[int, list[int]],
    *,
    held: bool,
) -> int:
    """Estimate how many records of a source have passed all operators, or with ``held`` wait to.

    An operator may receive more or fewer records than the source emitted. The share of its records
    that still wait or are in flight is taken as the share of the source's records that are there.
    """

    def share_inside(id_: int) -> float:
        operator = read[id_]
        inside = operator.waiting + operator.in_flight + (0 if held else operator.held)
        handed = operator.waiting + operator.records_in
        behind = max(map(share_inside, consumers[id_]), default=0.0)
        return behind + (inside / handed if handed else 0.0)

    unread = read[source].skipped + read[source].dead_lettered
    return unread + max(0, round(read[source].records_out * (1 - share_inside(source))))


def _time_left(lengths: list[int | None], worked: list[int], elapsed: float) -> float | None:
    longest = 0.0
    for length, done in zip(lengths, worked, strict=True):
        if length is None or not done:
            return None
        longest = max(longest, (length - done) * elapsed / done)
    return longest
