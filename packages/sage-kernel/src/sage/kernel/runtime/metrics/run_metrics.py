"""RunMetrics: what a pipeline has done so far, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sage.common.core.errors import nearest
from sage.kernel.runtime.metrics.replica_status import ReplicaStatus
from sage.kernel.runtime.metrics.run_html import run_html

State = Literal["new", "running", "ended", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class OperatorMetrics:
    """Counts of one operator, over all of its replicas.

    A record counts when its thread has passed it through all operators that run on that thread; at
    the end all counts are exact. Records that a failed or closed run gave up stay in ``waiting``,
    ``in_flight`` and ``held``.
    """

    name: str
    kind: str
    records_in: int = 0
    """Records that it began; 0 for a source."""
    records_out: int = 0
    """Records that it emitted; of a sink, those it has written."""
    waiting: int = 0
    """Records in its queue, and those that an operator waits to put there."""
    in_flight: int = 0
    """Records that it works on; always 0 for a synchronous operator on another's thread."""
    held: int = 0
    """Records that it has finished, and keeps until an earlier one of an ordered stream has gone
    on, and the operator behind it takes them."""
    skipped: int = 0
    dead_lettered: int = 0
    failed: int = 0
    """Records whose error stopped the pipeline: 0 or 1, or more if replicas failed at once."""
    retries: int = 0
    """How often an asynchronous operator submitted a record again."""
    overtaken: int = 0
    """Records that an operator with a StartOrder started after one that came later."""
    start_order: tuple[Mapping[str, Any], ...] = ()
    """What the StartOrder of each of its replicas says; empty without one."""
    rate: float = 0.0
    """Records that it finished per second of the whole run."""

    @property
    def errors(self) -> int:
        """Records that it could not process, whatever became of them."""
        return self.skipped + self.dead_lettered + self.failed

    @property
    def finished(self) -> int:
        """Records that it has finished; for a source, those it has emitted."""
        return self.records_out if self.kind == "source" else self.records_in - self.in_flight


@dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """A run as a whole, and its operators in the order in which they were described."""

    name: str
    state: State
    elapsed: float
    """Seconds since the first record could move; stops at the end."""
    operators: tuple[OperatorMetrics, ...]
    length: int | None
    """Records that the sources will emit in this run; None if one of them does not know."""
    done: int
    """Records of the sources that passed all operators; an estimate until the run has ended."""
    time_left: float | None
    """Seconds until the end at the mean pace so far; None if that is not known."""
    held: int = 0
    """Records of the sources beside ``done`` that only wait for an earlier one; an estimate."""
    done_before: int = 0
    """Records of the source that earlier runs with this checkpoint did; no part of the others."""
    checkpoint: str | None = None
    """The folder of its checkpoint, as it was given; None for a run without one."""
    services: Mapping[str, tuple[ReplicaStatus, ...]] = field(default_factory=dict)
    """The replicas of each service that runs on a cluster, by its name."""

    def operator(self, name: str) -> OperatorMetrics:
        """Return the operator of a name; an unknown name raises LookupError."""
        for operator in self.operators:
            if operator.name == name:
                return operator
        hint = nearest(name, [operator.name for operator in self.operators])
        raise LookupError(f"pipeline {self.name!r} has no operator {name!r}; {hint}")

    @property
    def errors(self) -> int:
        """Records that any operator could not process."""
        return sum(operator.errors for operator in self.operators)

    def _repr_html_(self) -> str:
        """Return the operators as a table, for notebooks."""
        of = "" if self.length is None else f" of {self.length:,}"
        said = f"{self.name}: {self.state}, {self.done:,}{of} done, {self.elapsed:.1f} s"
        return run_html(self, [operator.rate for operator in self.operators], said)
