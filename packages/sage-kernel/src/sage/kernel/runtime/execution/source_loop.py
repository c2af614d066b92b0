"""What the thread of a source does: take record after record from it and push each on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sage.common.core.functions import BatchFunction, StopSignal, UnreadableRecord
from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.checkpoint import Checkpoint
from sage.kernel.runtime.execution.run_state import RunState
from sage.kernel.runtime.flow.error_policy import ErrorPolicy
from sage.kernel.runtime.flow.link import Link
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
    push = downstream.push
    mark_done = None if checkpoint is None else checkpoint.counting(downstream.mark)
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
                if isinstance(record, UnreadableRecord):
                    policy.handle(record.record, record.error)
                else:
                    push(record)
            finally:  # also if an operator stops the run at it
                emitted += 1
            if mark_done is not None:  # an unreadable one counts: who continues skips as many
                mark_done()
        else:
            state.cut_short = True
        downstream.finish()

    return run


def _records(source: Any) -> Iterator[Any]:
    """Iterate over a source until its end."""
    none_is_record = getattr(source, "none_is_record", False)
    execute = source.execute
    while not isinstance(record := execute(), StopSignal):
        if record is None and not none_is_record:
            if isinstance(source, BatchFunction):
                return
            raise TypeError(
                "the source returned None, which is no record; return a StopSignal at its end, or "
                "set none_is_record = True on its class if None is a record"
            )
        yield record
