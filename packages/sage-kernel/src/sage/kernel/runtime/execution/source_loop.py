"""The body of a source's thread: read record after record and push each to the next operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage.common.core.functions import BatchFunction, UnreadableRecord
from sage.common.core.functions.sources import NoRecord
from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.checkpoint import Checkpoint
from sage.kernel.runtime.execution.run_state import RunState
from sage.kernel.runtime.flow.error_policy import ErrorPolicy
from sage.kernel.runtime.flow.link import Link
from sage.kernel.runtime.metrics.counts import Counts

_NONE = (
    "the source returned None, which is no record; return a StopSignal at its end, or set "
    "none_is_record = True on its class if None is a record"
)


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
    execute, push = function.execute, downstream.push
    mark_done = None if checkpoint is None else checkpoint.counting(downstream.mark)
    none_is_record = getattr(function, "none_is_record", False)
    emitted = 0
    counts.variable_out = lambda: emitted

    def stop_the_run(error: BaseException) -> PipelineCancelledError:
        counts.failed += 1
        fail(error)
        return PipelineCancelledError()

    def run() -> None:
        nonlocal emitted
        try:
            if checkpoint is not None and not state.stopping:
                checkpoint.skip_done(function)
        except BaseException as error:
            raise stop_the_run(error) from error
        while not state.stopping:
            try:
                record = execute()
            except BaseException as error:
                raise stop_the_run(error) from error
            if record is None and not none_is_record:
                if isinstance(function, BatchFunction):
                    break
                raise stop_the_run(TypeError(_NONE))
            if isinstance(record, NoRecord):
                if not isinstance(record, UnreadableRecord):
                    break  # a StopSignal
                emitted += 1
                policy.handle(record.record, record.error)
            else:
                try:
                    push(record)
                finally:  # also if an operator stops the run at it
                    emitted += 1
            if mark_done is not None:  # unreadable ones count: a resumed run skips them
                mark_done()
        else:
            state.cut_short = True
        downstream.finish()

    return run
