"""Wiring: turns a pipeline's description into the closures that its records pass.

An operator's closure calls that of the next operator, so operators are built from the sinks up:
building a source builds all that follows it. Where streams merge, what was built for the first of
them is used by the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from sage.common.core.functions import AsyncMapFunction
from sage.kernel.graph import Operator
from sage.kernel.graph.segment import Segment
from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.checkpoint import Checkpoint, DurableSinks
from sage.kernel.runtime.coroutines.coroutine_operator import CoroutineOperator
from sage.kernel.runtime.coroutines.coroutine_window import CoroutineWindow
from sage.kernel.runtime.coroutines.run_loop import RunLoop
from sage.kernel.runtime.execution.policies import Fail, Policies
from sage.kernel.runtime.execution.run_state import RunState
from sage.kernel.runtime.execution.run_threads import RunThreads
from sage.kernel.runtime.execution.running_functions import RunningFunctions
from sage.kernel.runtime.execution.source_loop import source_loop
from sage.kernel.runtime.failed_record import FailedRecord
from sage.kernel.runtime.flow.channel import Channel
from sage.kernel.runtime.flow.error_policy import ErrorPolicy
from sage.kernel.runtime.flow.in_flight_window import InFlightWindow
from sage.kernel.runtime.flow.link import Link, Push
from sage.kernel.runtime.flow.push_functions import PUSH_FUNCTIONS
from sage.kernel.runtime.metrics.counts import Counts, OperatorCounts, RunCounts


class Wiring:
    """Builds functions, channels, windows and threads, and connects them.

    Each source has a thread. An operator of parallelism 1 with one input of parallelism 1 runs on
    the thread of the operator before it; the others read a bounded channel on threads of their
    own. What an asynchronous operator emits goes on from a thread of its own.
    """

    def __init__(
        self,
        operators: Sequence[Operator],
        *,
        functions: RunningFunctions,
        threads: RunThreads,
        run_loop: RunLoop,
        counts: RunCounts,
        state: RunState,
        durable_sinks: DurableSinks,
        checkpoint: Checkpoint | None,
        channel_capacity: int,
        fail: Fail,
    ) -> None:
        self._operators = operators
        self._functions = functions
        self._threads = threads
        self._run_loop = run_loop
        self._counts = counts
        self._state = state
        self._durable_sinks = durable_sinks
        self._checkpoint = checkpoint
        self._channel_capacity = channel_capacity
        self._fail = fail
        self._channels: dict[int, list[Channel]] = {}
        self._policies = Policies(functions, durable_sinks, counts, fail)
        self._windows: list[InFlightWindow] = []
        self._sources: list[tuple[Operator, threading.Thread]] = []

    def build(self) -> None:
        """Build everything, from the sources down; raises what a function's constructor raises."""
        for operator in self._operators:
            if operator.kind == "source":
                self._build_source(operator)
        if self._run_loop:
            self._threads.add("coroutines", self._run_loop.serve)

    def cancel(self) -> None:
        """Wake every thread that waits in a channel or a window, to end it. Any thread."""
        for channels in list(self._channels.values()):
            for channel in channels:
                channel.cancel()
        for window in list(self._windows):
            window.cancel()
        self._run_loop.end()

    @property
    def endless_sources(self) -> list[str]:
        """The names of the sources that still emit and do not know how many records they have."""
        return [
            operator.name
            for operator, thread in self._sources
            if thread.is_alive() and self._counts[operator].length is None
        ]

    def _build_source(self, operator: Operator) -> None:
        assert operator.function is not None  # noqa: S101 - for the type checker
        function = self._functions.build(operator.name, operator.function)
        downstream = self._build_consumers(operator)
        policy = self._policies.of(operator)
        if self._checkpoint is not None:
            mark = self._durable_sinks.stating(operator, downstream.mark)
            downstream = Link(downstream.push, downstream.finish, mark)
        self._counts[operator].source = function

        def fail(error: BaseException) -> None:
            failed = FailedRecord(operator=operator.name, record=None, error=error)
            self._fail(failed, f"in source {operator.name!r}")

        body = source_loop(
            function,
            downstream,
            state=self._state,
            counts=OperatorCounts.added(self._counts[operator].replicas),
            policy=policy,
            checkpoint=self._checkpoint,
            fail=fail,
        )
        self._sources.append((operator, self._threads.add(operator.name, body)))

    def _build_consumers(self, operator: Operator) -> Link:
        """Build what follows one replica of an operator; return the way on into all of it."""
        consumers = [
            consumer
            for consumer in self._operators
            for input_id in consumer.inputs
            if input_id == operator.id
        ]
        links = [self._connect(operator, consumer) for consumer in consumers]
        if len(links) == 1:
            self._counts_into(consumers[0]).upstream[operator.id] = self._counts[operator]
            return links[0]
        branches = [OperatorCounts.added(self._counts_into(each).branches) for each in consumers]
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
            return Link(push, finish)
        return Link(push, finish, self._checkpoint.reached_the_end)

    def _connect(self, upstream: Operator, operator: Operator) -> Link:
        """Build an operator, unless it is built; return the way into it from one replica."""
        keyed = upstream.kind == "keyby"
        if len(operator.inputs) == 1 and operator.parallelism == upstream.parallelism == 1:
            link = self._build_replica(operator)
            push = link.push
            return Link(lambda keyed_record: push(keyed_record[1]), link.finish) if keyed else link
        channels = self._channels.get(operator.id) or self._build_readers(operator, keyed=keyed)
        for channel in channels:
            channel.add_producer()

        def finish() -> None:
            for channel in channels:
                channel.finish()

        def put_by_key(keyed_record: tuple[int, Any]) -> None:
            key_hash, record = keyed_record
            channels[key_hash % len(channels)].put(record)

        return Link(put_by_key if keyed else channels[0].put, finish)

    def _build_readers(self, operator: Operator, *, keyed: bool) -> list[Channel]:
        """Build all replicas of an operator, each on a thread; return the channels they read.

        If keyed that is one each, else one for all.
        """
        consumers = 1 if keyed else operator.parallelism
        count = operator.parallelism if keyed else 1
        channels = [Channel(self._channel_capacity, consumers) for _ in range(count)]
        self._channels[operator.id] = channels
        for index in range(operator.parallelism):
            self._build_reader(operator, channels[index % count])
        return channels

    def _build_reader(self, operator: Operator, channel: Channel) -> None:
        link = self._build_replica(operator)
        own = isinstance(operator, Segment)  # its window counts what it is handed
        counts = Counts() if own else OperatorCounts.added(self._counts[operator].readers)

        def run() -> None:
            push = link.push
            for record in channel:
                counts.begun += 1
                try:
                    push(record)
                finally:
                    counts.ended += 1
            link.finish()

        self._threads.add(operator.name, run)

    def _build_replica(self, operator: Operator) -> Link:
        """Build one instance of an operator and what follows it; return the way in."""
        downstream = self._build_consumers(operator)
        if isinstance(operator, Segment):
            return self._build_segment(operator, downstream)
        if operator.function is None:  # a union: its channel has merged the inputs already
            return downstream
        function = self._functions.build(operator.name, operator.function)
        policy = self._policies.of(operator)
        mark = downstream.mark
        execute = function.execute
        if operator.kind == "sink":
            execute = self._durable_sinks.add(operator, function)
        if self._checkpoint is not None:
            mark = self._durable_sinks.stating(operator, mark)
        downstream = Link(downstream.push, downstream.finish, mark)
        if operator.function.is_async:
            function = CoroutineOperator(function, operator.kind, self._run_loop, self._checkpoint)
        if isinstance(function, AsyncMapFunction):
            return self._build_window(operator, function, policy, downstream)
        emit = downstream.push
        if operator.kind == "flatmap":  # one record may come out as endlessly many
            emit = _unless(self._state.decided.is_set, emit)
        counts = OperatorCounts.added(self._counts[operator].replicas)
        push = PUSH_FUNCTIONS[operator.kind](execute, policy, emit, counts)
        return Link(push, downstream.finish, mark)

    def _build_window(
        self, operator: Operator, function: AsyncMapFunction, policy: ErrorPolicy, downstream: Link
    ) -> Link:
        """Build the window of an asynchronous operator, and the thread that emits from it."""
        if self._checkpoint is not None and not function.ordered:
            raise self._checkpoint.unsupported(f"{operator.name!r} has ordered=False")
        self._counts[operator].is_async = True
        kind: Any = CoroutineWindow if isinstance(function, CoroutineOperator) else InFlightWindow
        window = kind(
            function,
            operator=operator.name,
            policy=policy,
            counts=OperatorCounts.added(self._counts[operator].replicas),
            emit=downstream.push,
            emit_mark=downstream.mark,
        )
        return self._run_window(operator, window, downstream)

    def _build_segment(self, segment: Segment, downstream: Link) -> Link:
        """Build the window of a chain of operators that run in workers elsewhere."""
        from sage.kernel.runtime.cluster.operators.chunk_window import ChunkWindow

        mark = downstream.mark
        policies = [self._policies.of(operator) for operator in segment.operators]
        if self._checkpoint is not None:
            for operator in segment.operators:
                mark = self._durable_sinks.stating(operator, mark)
        window = ChunkWindow(
            self._functions.build(segment.name, segment.spec),
            segment,
            policies=policies,
            counts=[self._counts[operator] for operator in segment.operators],
            stop=ErrorPolicy(segment.name, "raise", self._fail),
            emit=downstream.push,
            emit_mark=mark,
        )
        return self._run_window(segment, window, downstream)

    def _run_window(self, operator: Operator, window: InFlightWindow, downstream: Link) -> Link:
        self._windows.append(window)

        def run() -> None:
            window.run()
            downstream.finish()

        self._threads.add(operator.name, run)
        return Link(window.push, window.finish, window.mark)

    def _counts_into(self, operator: Operator) -> OperatorCounts:
        """Return the counts of the operator that a record comes to first."""
        first = operator.operators[0] if isinstance(operator, Segment) else operator
        return self._counts[first]


def _unless(is_decided: Callable[[], bool], emit: Push) -> Push:
    def emit_unless_decided(record: Any) -> None:
        if is_decided():
            raise PipelineCancelledError
        emit(record)

    return emit_unless_decided
