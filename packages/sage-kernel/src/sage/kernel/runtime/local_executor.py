"""LocalExecutor: runs a pipeline's description on threads of this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sage.common.core.context import ServiceCaller
from sage.common.core.functions import AsyncMapFunction, BatchFunction, StopSignal
from sage.kernel.graph import FunctionSpec, Operator
from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.channel import Channel
from sage.kernel.runtime.checkpoint import Checkpoint, DurableSinks
from sage.kernel.runtime.checkpoint.durable_sinks import Mark, no_mark
from sage.kernel.runtime.error_policy import ErrorPolicy
from sage.kernel.runtime.failed_record import FailedRecord
from sage.kernel.runtime.in_flight_window import InFlightWindow
from sage.kernel.runtime.metrics import RunMetrics, State
from sage.kernel.runtime.metrics_counts import OperatorCounts, RunCounts
from sage.kernel.runtime.push_functions import PUSH_FUNCTIONS, Push
from sage.kernel.runtime.running_functions import RunningFunctions, annotate

logger = logging.getLogger(__name__)

_SIGNALS_EVERY = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class _Link:
    """The way into an operator: ``push`` a record, ``finish`` when there are no more.

    ``mark`` says that all before a position was pushed; see Checkpoint.
    """

    push: Push
    finish: Callable[[], None]
    mark: Mark = no_mark


class LocalExecutor:
    """One run of a pipeline.

    Each source has a thread. An operator of parallelism 1 with one input of parallelism 1 runs on
    the thread of the operator before it; the others read a bounded channel on threads of their
    own. What an asynchronous operator emits goes on from a thread of its own.
    """

    def __init__(
        self,
        name: str,
        operators: Sequence[Operator],
        services: ServiceCaller,
        *,
        channel_capacity: int,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._name = name
        self._operators = {operator.id: operator for operator in operators}
        self._counts = RunCounts(name, operators)
        self._functions = RunningFunctions(services)
        self._channel_capacity = channel_capacity
        self._checkpoint = checkpoint
        self._durable_sinks = DurableSinks()
        self._channels: dict[int, list[Channel]] = {}
        self._policies: dict[int, ErrorPolicy] = {}
        self._threads: list[threading.Thread] = []
        self._cancels: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._stopping = False  # sources end at their next record
        self._cut_short = False  # and one did, before its own end
        self._finished = False  # all records are through, or never will be
        self._cancelled = False
        self._starter: threading.Thread | None = None  # while it is in start()
        self._live_threads: set[threading.Thread] = set()
        self._decided = threading.Event()  # it failed, was cancelled or ended
        self._ended = threading.Event()  # nothing of it runs, not yet or not any more
        self._ended.set()
        self.failure: FailedRecord | None = None
        self._failure_raised = False

    def start(self, open_services: Callable[[], None]) -> None:
        """Open the services, build and set up all functions, then start the threads.

        Raises what one of these raises, and PipelineCancelledError if it was cancelled before.
        """
        self._starter = threading.current_thread()
        try:
            open_services()
            self._ended.clear()  # first, so that who cancels it now waits for what follows
            self._raise_if_cancelled()
            for operator in self._operators.values():
                if operator.kind == "source":
                    self._add_source(operator)
            self.failure = self._functions.set_up(unless=self._decided.is_set)
            if self.failure is not None:
                raise self.failure.error  # noqa: TRY301 - it ends as a failure to build does
            self._raise_if_cancelled()
            if self._checkpoint is None:
                self._durable_sinks.begin({})
            else:
                self._checkpoint.begin(self._durable_sinks, self._fail_to_commit)
        except BaseException as error:
            if self.failure is None and not self._cancelled:
                self.failure = FailedRecord(operator=self._name, record=None, error=error)
            self._failure_raised = True
            self._end(began=False)
            raise
        finally:
            self._starter = None
        self._counts.begin(self._checkpoint.position if self._checkpoint else 0)
        self._start_threads()
        if not self._threads:  # a checkpoint found it complete
            self._end()

    def wait(self) -> None:
        """Wait for the end; raise what stopped the pipeline, with its own traceback.

        A failure is raised at once: an operator that never returns must not hide it.
        """
        # The system may hand a Ctrl-C to any thread, and Python acts on it in the main one alone,
        # which an endless wait would keep asleep.
        while not self._decided.wait(_SIGNALS_EVERY):
            pass
        if self.failure is not None:
            self._failure_raised = True
            raise self.failure.error
        self._raise_if_cancelled()

    def stop(self) -> None:
        """End the sources at their next record; what they have emitted still goes through.

        Unless they were at their end already, the durable sinks do not publish what they have.
        """
        self._stopping = True

    def cancel(self) -> None:
        """End all threads as soon as the function that each is in returns."""
        with self._lock:
            if not self._finished and not self._decided.is_set():
                self._cancelled = True
                self._decided.set()
        self._stopping = True
        for cancel in self._cancels:
            cancel()

    def metrics(self) -> RunMetrics:
        """Return what was done so far; may be called at any time."""
        state: State = "ended" if self._decided.is_set() else "running"
        if self.failure is not None:
            state = "failed"
        elif self._cancelled:
            state = "cancelled"
        return self._counts.read(state)

    @property
    def on_own_thread(self) -> bool:
        """Whether a function of the pipeline calls, or a service that opens: it cannot wait."""
        current = threading.current_thread()
        return current is self._starter or current in self._threads

    def join(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for the end; log what still runs and what nobody saw."""
        if not self._ended.wait(timeout):
            names = ", ".join(t.name for t in self._threads if t.is_alive())
            names = names or f"{self._functions.latest}, which is being set up"
            logger.warning("after %g s these operators have not returned: %s", timeout, names)
        if self.failure is not None and not self._failure_raised:
            self._failure_raised = True
            error = self.failure.error
            logger.error(
                "pipeline %r failed: %r %s", self._name, error, self.failure, exc_info=error
            )

    # -- wiring, from the sources down --------------------------------------------------------

    def _add_source(self, operator: Operator) -> None:
        assert operator.function is not None  # noqa: S101 - for the type checker
        function = self._functions.build(operator.name, operator.function)
        downstream = self._downstream(operator)
        push, checkpoint = downstream.push, self._checkpoint
        counts = OperatorCounts.added(self._counts[operator].replicas)
        self._counts[operator].source = function
        emitted = 0
        counts.variable_out = lambda: emitted
        if checkpoint is not None:
            push = checkpoint.counted(push, downstream.mark)

        def run() -> None:
            nonlocal emitted
            records = _records(function)
            if checkpoint is not None:
                records = checkpoint.remaining(function, records)
            while not self._stopping:
                try:
                    record = next(records)
                except StopIteration:
                    break
                except BaseException as error:
                    counts.failed += 1
                    failed = FailedRecord(operator=operator.name, record=None, error=error)
                    self._fail(failed, f"in source {operator.name!r}")
                    raise PipelineCancelledError from error
                try:
                    push(record)
                finally:  # also if an operator stops the run at it
                    emitted += 1
            else:
                self._cut_short = True
            downstream.finish()

        self._add_thread(operator, run)

    def _downstream(self, operator: Operator) -> _Link:
        """Return the way on from one replica of an operator, into all that consume it."""
        consumers = [
            consumer
            for consumer in self._operators.values()
            for input_id in consumer.inputs
            if input_id == operator.id
        ]
        links = [self._link(consumer, operator) for consumer in consumers]
        if len(links) == 1:
            self._counts[consumers[0]].upstream[operator.id] = self._counts[operator]
            return links[0]
        branches = [OperatorCounts.added(self._counts[consumer].branches) for consumer in consumers]
        ways = [(link.push, branch) for link, branch in zip(links, branches, strict=True)]

        def push(record: Any) -> None:
            for push_on, branch in ways:
                try:
                    push_on(record)
                finally:
                    branch.out += 1

        def finish() -> None:
            for link in links:
                link.finish()

        if self._checkpoint is None or links:
            return _Link(push, finish)
        return _Link(push, finish, self._checkpoint.reached_the_end)

    def _link(self, operator: Operator, upstream: Operator) -> _Link:
        """Return the way into an operator from one replica of the operator before it."""
        keyed = upstream.kind == "keyby"
        if len(operator.inputs) == 1 and operator.parallelism == upstream.parallelism == 1:
            link = self._replica(operator)
            push = link.push
            return _Link(lambda keyed_record: push(keyed_record[1]), link.finish) if keyed else link
        channels = self._channels_into(operator, keyed=keyed)
        for channel in channels:
            channel.add_producer()

        def finish() -> None:
            for channel in channels:
                channel.finish()

        def put_by_key(keyed_record: tuple[int, Any]) -> None:
            key_hash, record = keyed_record
            channels[key_hash % len(channels)].put(record)

        return _Link(put_by_key if keyed else channels[0].put, finish)

    def _channels_into(self, operator: Operator, *, keyed: bool) -> list[Channel]:
        """Return the channels that an operator's replicas read: one each if keyed, else one."""
        if operator.id in self._channels:
            return self._channels[operator.id]
        consumers = 1 if keyed else operator.parallelism
        count = operator.parallelism if keyed else 1
        channels = [Channel(self._channel_capacity, consumers) for _ in range(count)]
        self._channels[operator.id] = channels
        self._cancels += [channel.cancel for channel in channels]
        for index in range(operator.parallelism):
            self._add_reader(operator, channels[index % count])
        return channels

    def _add_reader(self, operator: Operator, channel: Channel) -> None:
        link = self._replica(operator)
        counts = OperatorCounts.added(self._counts[operator].readers)

        def run() -> None:
            push = link.push
            for record in channel:
                counts.begun += 1
                try:
                    push(record)
                finally:
                    counts.ended += 1
            link.finish()

        self._add_thread(operator, run)

    def _replica(self, operator: Operator) -> _Link:
        """Build one instance of an operator and all that follows it on the same thread."""
        downstream = self._downstream(operator)
        if operator.function is None:  # a union: its channel has merged the inputs already
            return downstream
        function = self._functions.build(operator.name, operator.function)
        policy = self._policy(operator)
        counts = OperatorCounts.added(self._counts[operator].replicas)
        mark, execute = downstream.mark, function.execute
        if operator.kind == "sink":
            execute = self._durable_sinks.add(operator, function)
        if self._checkpoint is not None:
            mark = self._durable_sinks.stating(operator, mark)
        if not isinstance(function, AsyncMapFunction):
            emit = downstream.push
            if operator.kind == "flatmap":  # one record may come out as endlessly many
                emit = self._unless_cancelled(emit)
            push = PUSH_FUNCTIONS[operator.kind](execute, policy, emit, counts)
            return _Link(push, downstream.finish, mark)
        if self._checkpoint is not None and not function.ordered:
            raise self._checkpoint.unsupported(f"{operator.name!r} has ordered=False")
        self._counts[operator].is_async = True
        window = InFlightWindow(
            function,
            operator=operator.name,
            policy=policy,
            counts=counts,
            emit=downstream.push,
            emit_mark=mark,
        )
        self._cancels.append(window.cancel)

        def run() -> None:
            window.run()
            downstream.finish()

        self._add_thread(operator, run)
        return _Link(window.push, window.finish, window.mark)

    def _policy(self, operator: Operator) -> ErrorPolicy:
        if operator.id not in self._policies:
            on_error: Any = operator.on_error
            if isinstance(on_error, FunctionSpec):
                dead_letter_sink = self._functions.build(operator.name, on_error)
                on_error = self._durable_sinks.add(operator, dead_letter_sink, dead_letters=True)
            policy = ErrorPolicy(operator.name, on_error, self._fail)
            self._policies[operator.id] = self._counts[operator].policy = policy
        return self._policies[operator.id]

    def _unless_cancelled(self, emit: Push) -> Push:
        def emit_unless_cancelled(record: Any) -> None:
            if self._decided.is_set():
                raise PipelineCancelledError
            emit(record)

        return emit_unless_cancelled

    def _raise_if_cancelled(self) -> None:
        if self._cancelled:
            raise PipelineCancelledError(f"pipeline {self._name!r} was closed before its end")

    # -- threads --------------------------------------------------------------------------------

    def _add_thread(self, operator: Operator, body: Callable[[], None]) -> None:
        def run() -> None:
            try:
                body()
            except PipelineCancelledError:
                pass
            except BaseException as error:  # noqa: BLE001 - the thread's last frame
                self._fail(FailedRecord(operator=operator.name, record=None, error=error))
            finally:
                self._thread_ended(thread)

        name = f"sage-{self._name}-{operator.name}"
        # A daemon: a function that never returns must not keep the interpreter from ending.
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)

    def _start_threads(self) -> None:
        self._live_threads = set(self._threads)
        try:
            for thread in self._threads:
                thread.start()
        except BaseException as error:  # the system has no more of them, or it was a Ctrl-C
            self._failure_raised = True
            failed = FailedRecord(operator=self._name, record=None, error=error)
            with self._lock:
                self.failure = self.failure or failed
            self.cancel()
            for thread in set(self._threads).difference(threading.enumerate()):
                self._thread_ended(thread)  # those that run do so themselves
            raise

    def _thread_ended(self, thread: threading.Thread) -> None:
        with self._lock:
            if thread not in self._live_threads:
                return
            self._live_threads.remove(thread)
            last = not self._live_threads
        if last:
            self._end()

    def _fail(self, failed: FailedRecord, note: str | None = None) -> None:
        with self._lock:
            if self.failure is None:
                annotate(failed.error, note or str(failed))
                self.failure = failed
                self._decided.set()
        self.cancel()

    def _fail_to_commit(self, error: BaseException) -> None:
        failed = FailedRecord(operator=self._name, record=None, error=error)
        self._fail(failed, f"in the checkpoint of pipeline {self._name!r}")

    def _end(self, *, began: bool = True) -> None:
        """A sink may flush here, so an error is the pipeline's, unless it has one already."""
        with self._lock:
            self._finished = True
        if began:
            self._conclude()
        elif self._checkpoint is not None:
            self._checkpoint.close()
        for failed in self._functions.clean_up():
            if self.failure is None:
                self.failure = failed
            else:
                name = failed.operator
                logger.error("cleanup() of operator %r failed", name, exc_info=failed.error)
        self._counts.end()
        self._decided.set()
        self._ended.set()

    def _conclude(self) -> None:
        """Commit what is through, and publish outputs that are whole."""
        if self._checkpoint is not None:
            self._checkpoint.stop()  # first: until then a commit may fail
        failed = self.failure is not None or self._cancelled
        whole = not failed and not self._cut_short
        try:
            if self._checkpoint is not None:
                self._checkpoint.end(self._durable_sinks, whole=whole)
            elif whole:
                self._durable_sinks.finish()
        except BaseException as error:  # noqa: BLE001 - wait() raises it
            if failed:
                logger.warning("the last records were not committed: %s", error)
            else:
                self.failure = FailedRecord(operator=self._name, record=None, error=error)


def _records(source: Any) -> Iterator[Any]:
    """Iterate over a source until its end."""
    none_ends = isinstance(source, BatchFunction)
    execute = source.execute
    while not isinstance(record := execute(), StopSignal) and not (none_ends and record is None):
        yield record
