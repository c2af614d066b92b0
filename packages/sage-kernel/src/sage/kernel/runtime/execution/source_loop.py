"""What the thread of a source does: take record after record from it and push each on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sage.common.core.functions import BatchFunction, StopSignal, UnreadableRecord
from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.checkpoint import Checkpoint
from sage.kernel.runtime.execution.run_state import RunState
from sage.kernel.runtime.flow.error_policy import ErrorPolicy
from sage.kernel.runtime.flow.link import Link, Push
from sage.kernel.runtime.metrics.counts import Counts


def source_loop(
    function: Any,
    downstream: Link,
    *,
    state: RunState,
    counts: Counts,
    policy: ErrorPolicy,
    checkpoint: Checkpoint | None,
    fail: Callable[[BaseException], None],
) -> Callable[[], None]:
    """Return the body of a source's thread; ``fail`` hears what the source itself raises."""
    push = _unless_unreadable(downstream.push, policy)
    if checkpoint is not None:
        push = checkpoint.counted(push, downstream.mark)
    emitted = 0
    counts.variable_out = lambda: emitted

    def run() -> None:
        nonlocal emitted
        records = _records(function)
        if checkpoint is not None:
            records = checkpoint.remaining(function, records)
        while not state.stopping:
            try:
                record = next(records)
            except StopIteration:
                break
            except BaseException as error:
                counts.failed += 1
                fail(error)
                raise PipelineCancelledError from error
            try:
                push(record)
            finally:  # also if an operator stops the run at it
                emitted += 1
        else:
            state.cut_short = True
        downstream.finish()

    return run


def _unless_unreadable(push: Push, policy: ErrorPolicy) -> Push:
    """Return a ``push`` that leaves records which could not be read to the source's policy.

    It is called for those too: they count, so that a run which is continued skips as many.
    """

    def push_if_read(record: Any) -> None:
        if isinstance(record, UnreadableRecord):
            policy.handle(record.record, record.error)
        else:
            push(record)

    return push_if_read


def _records(source: Any) -> Iterator[Any]:
    """Iterate over a source until its end."""
    none_ends = isinstance(source, BatchFunction)
    execute = source.execute
    while not isinstance(record := execute(), StopSignal) and not (none_ends and record is None):
        yield record
