"""LocalExecutor: runs a pipeline's description on threads of this process."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from sage.common.core.context import ServiceCaller
from sage.kernel.graph import Operator
from sage.kernel.graph.segment import expanded
from sage.kernel.runtime.all_records_failed import ENOUGH, AllRecordsFailedError
from sage.kernel.runtime.checkpoint import Checkpoint, DurableSinks
from sage.kernel.runtime.coroutines.run_loop import RunLoop
from sage.kernel.runtime.execution.run_state import RunState
from sage.kernel.runtime.execution.run_threads import RunThreads
from sage.kernel.runtime.execution.running_functions import RunningFunctions
from sage.kernel.runtime.execution.wiring import Wiring
from sage.kernel.runtime.failed_record import FailedRecord
from sage.kernel.runtime.metrics.counts import RunCounts
from sage.kernel.runtime.metrics.run_metrics import RunMetrics

logger = logging.getLogger(__name__)

_SIGNALS_EVERY = 0.5  # seconds
_ENDLESS_AFTER = 10.0  # seconds of waiting for a source that may have no end


class LocalExecutor:
    """One run of a pipeline, from the opening of its services to the cleanup of its functions."""

    def __init__(
        self,
        name: str,
        operators: Sequence[Operator],
        services: ServiceCaller,
        *,
        channel_capacity: int,
        close_timeout: float,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._name = name
        self._checkpoint = checkpoint
        self._state = RunState(name)
        self._counts = RunCounts(name, expanded(operators))
        self._run_loop = RunLoop(close_timeout, self._state.decided.is_set)
        self._functions = RunningFunctions(services, self._run_loop)
        self._durable_sinks = DurableSinks()
        self._threads = RunThreads(name, fail=self._fail, all_ended=self._end)
        self._wiring = Wiring(
            operators,
            functions=self._functions,
            threads=self._threads,
            run_loop=self._run_loop,
            counts=self._counts,
            state=self._state,
            durable_sinks=self._durable_sinks,
            checkpoint=checkpoint,
            channel_capacity=channel_capacity,
            fail=self._fail,
        )
        self._starter: threading.Thread | None = None  # while it is in start()

    def start(self, open_services: Callable[[], None]) -> None:
        """Open the services, build and set up all functions, then start the threads.

        Raises what a service, constructor or setup() raises, and PipelineCancelledError if the run
        was cancelled before.
        """
        self._starter = threading.current_thread()
        try:
            open_services()
            self._set_up()
        except BaseException as error:
            self._state.conclude()
            if self._state.verdict != "cancelled":
                self._state.fail(FailedRecord(operator=self._name, record=None, error=error))
            self._state.take_unseen_failure()  # this call raises it
            if self._checkpoint is not None:
                self._checkpoint.close()
            self._clean_up()
            raise
        finally:
            self._starter = None
        self._state.run()
        kept = self._checkpoint
        self._counts.begin(kept.position if kept else 0, kept.folder if kept else None)
        self._start_threads()
        if not self._threads:  # a checkpoint found it complete
            self._end()

    def wait(self, *, tell_endless: bool = False) -> None:
        """Wait for the verdict; raise what stopped the pipeline, with its own traceback.

        A failure is raised at once: an operator that never returns must not hide it. With
        ``tell_endless`` the log says which sources it waits for if they may never end.
        """
        tell_at = time.monotonic() + _ENDLESS_AFTER if tell_endless else math.inf
        # The system may hand a Ctrl-C to any thread, and Python acts on it in the main one alone,
        # which an endless wait would keep asleep.
        while not self._state.decided.wait(_SIGNALS_EVERY):
            if time.monotonic() > tell_at:
                tell_at = math.inf  # once
                self._tell_endless()
        self._state.raise_verdict()

    def stop(self) -> None:
        """End the sources at their next record; records already emitted are still processed.

        If a source had not reached its own end, the durable sinks do not publish their outputs.
        """
        self._state.stop()

    def cancel(self) -> None:
        """End all threads as soon as the function that each is in returns."""
        self._state.cancel()
        self._wiring.cancel()

    def metrics(self) -> RunMetrics:
        """Return what was done so far; may be called at any time."""
        return self._counts.read(self._state.verdict or "running")

    @property
    def failure(self) -> FailedRecord | None:
        """What stopped the pipeline, if anything did."""
        return self._state.failure

    @property
    def on_own_thread(self) -> bool:
        """Whether a function of the pipeline or a service being opened calls: it cannot wait."""
        current = threading.current_thread()
        return current is self._starter or current in self._threads

    def join(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for the end; log what still runs and unseen failures."""
        if not self._state.wait_until_idle(timeout):
            names = ", ".join(self._threads.alive)
            names = names or f"{self._functions.latest}, which is being set up"
            logger.warning("after %g s these operators have not returned: %s", timeout, names)
        failed = self._state.take_unseen_failure()
        if failed is not None:
            error = failed.error
            logger.error("pipeline %r failed: %r %s", self._name, error, failed, exc_info=error)

    def _tell_endless(self) -> None:
        waited_for = self._wiring.endless_sources
        if waited_for:
            logger.warning(
                "submit() waits until source %s of pipeline %r returns a StopSignal, or another "
                "thread calls stop(); submit(autostop=False) returns at once",
                " and ".join(map(repr, waited_for)),
                self._name,
            )

    def _set_up(self) -> None:
        self._state.set_up()
        self._wiring.build()
        failed = self._functions.set_up(unless=self._state.decided.is_set)
        if failed is not None:
            self._state.fail(failed)
            raise failed.error
        self._state.raise_if_cancelled()
        if self._checkpoint is None:
            self._durable_sinks.begin({})
        else:
            self._checkpoint.begin(self._durable_sinks, self._fail_to_commit)

    def _start_threads(self) -> None:
        try:
            self._threads.start()
        except BaseException as error:  # the system has no more of them, or it was a Ctrl-C
            self._state.fail(FailedRecord(operator=self._name, record=None, error=error))
            self._state.take_unseen_failure()  # this call raises it
            self._wiring.cancel()
            self._threads.give_up_unstarted()
            raise

    def _fail(self, failed: FailedRecord, note: str = "") -> None:
        self._state.fail(failed, note or str(failed))
        self._wiring.cancel()

    def _fail_to_commit(self, error: BaseException) -> None:
        failed = FailedRecord(operator=self._name, record=None, error=error)
        self._fail(failed, f"in the checkpoint of pipeline {self._name!r}")

    def _end(self) -> None:
        """Commit the records that are done, publish the outputs that are whole, clean up."""
        self._state.conclude()
        if self._checkpoint is not None:
            self._checkpoint.stop()  # first: until then a commit may fail
        self._check_that_some_passed()
        failed, whole = self._state.verdict is not None, self._state.whole
        try:
            if self._checkpoint is not None:
                self._checkpoint.end(self._durable_sinks, whole=whole)
            elif whole:
                self._durable_sinks.finish()
        except BaseException as error:  # noqa: BLE001 - wait() raises it
            if failed:
                logger.warning("the last records were not committed: %s", error)
            else:
                self._state.fail(FailedRecord(operator=self._name, record=None, error=error))
        self._clean_up()

    def _check_that_some_passed(self) -> None:
        """Fail a run, if nothing else did, in which an operator lost all that came to it."""
        found = self._counts.all_failed()
        if found is None or self._state.verdict is not None:
            return
        operator, errors = found
        count = errors.skipped + errors.dead_lettered
        error = AllRecordsFailedError(operator, count, errors.first)
        if count < ENOUGH:
            logger.warning("pipeline %r: %s", self._name, error)
            return
        self._state.fail(FailedRecord(operator=operator, record=None, error=error))
        if self._checkpoint is not None:
            self._checkpoint.begin_anew()

    def _clean_up(self) -> None:
        """Clean up. A sink may flush here, so an error is the pipeline's, if it has none."""
        for failed in self._functions.clean_up():
            if not self._state.fail(failed):
                name = failed.operator
                logger.error("cleanup() of operator %r failed", name, exc_info=failed.error)
        self._run_loop.close()
        self._counts.end()
        self._state.end()
