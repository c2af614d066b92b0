"""ChunkWindow: an InFlightWindow of chunks of records, for operators that run in workers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from sage.kernel.graph.segment import Segment
from sage.kernel.runtime.annotate import annotate
from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.cluster.mail.carriage import from_bytes, read_outcome, to_bytes
from sage.kernel.runtime.cluster.operators.chain_service import Failed
from sage.kernel.runtime.cluster.operators.remote_chain import RemoteChain, Unsendable
from sage.kernel.runtime.flow.error_policy import ErrorPolicy
from sage.kernel.runtime.flow.in_flight_window import Entry, InFlightWindow
from sage.kernel.runtime.flow.link import Mark, Push
from sage.kernel.runtime.metrics.counts import Counts, OperatorCounts

_MOST_RECORDS = 256  # of a chunk
_SECONDS = 0.25  # of work in a chunk: what is waited for at the end, and done again after a death
_MOST_BYTES = 1 << 20


class ChunkWindow(InFlightWindow):
    """Gathers records into chunks, and emits what became of each record, in order.

    A chunk leaves when it is full, or at once if a worker has nothing to do. So records of a slow
    source wait for nothing, and those of a fast one share what a chunk costs. A chunk is full with
    one record at first, then with as many as a worker does in a quarter of a second. The one
    that is being gathered has its place in the window already, so it can leave at any time.

    Args:
        function: runs a chunk.
        segment: the operators that it runs.
        policies: what each of them does about errors.
        counts: what is counted of each of them.
        stop: stops the run, where a chunk as a whole has an error.
        emit: takes what comes out.
        emit_mark: takes the marks.
    """

    def __init__(
        self,
        function: RemoteChain,
        segment: Segment,
        *,
        policies: Sequence[ErrorPolicy],
        counts: Sequence[OperatorCounts],
        stop: ErrorPolicy,
        emit: Push,
        emit_mark: Mark,
    ) -> None:
        super().__init__(
            function,
            operator=segment.name,
            policy=stop,
            counts=Counts(),
            emit=emit,
            emit_mark=emit_mark,
        )
        self._chain = function
        self._policies = policies
        self._received = [OperatorCounts.added(each.readers) for each in counts]
        self._emitted = [OperatorCounts.added(each.replicas) for each in counts]
        self._gathering = threading.Lock()  # guards the two below, and the start of what they hold
        self._open: Entry | None = None
        self._bytes = 0
        self._most = 1

    def push(self, record: Any) -> None:
        """Take a record into the chunk that is being gathered, waiting for a place for it."""
        self._received[0].begun += 1
        try:
            data = to_bytes(record)
        except Exception as error:  # noqa: BLE001 - it is the record's, in its place
            annotate(error, "the record could not be sent to a worker")
            self._leave()
            self._room.enter(0)
            self._start(self._enter(Unsendable(record, error)))
            return
        with self._gathering:
            if self._gather(data):
                return
        self._room.enter(0)  # not under the lock: the emitter makes room
        with self._gathering:
            self._open, self._bytes = self._enter([]), 0
            self._gather(data)

    def finish(self) -> None:
        """Say that no record will follow."""
        self._leave()
        super().finish()

    def run(self) -> None:
        """Emit what becomes of all records, then have the workers clean up."""
        super().run()
        self._chain.finish()

    def _enter(self, contents: list[bytes] | Unsendable) -> Entry:
        entry = self._last = Entry(contents, 0)
        self._order.append(entry)
        return entry

    def _gather(self, data: bytes) -> bool:
        """Add a record to the open chunk; False if none is open."""
        entry = self._open
        if entry is None:
            return False
        entry.record.append(data)
        self._bytes += len(data)
        with self._marking:
            entry.mark = None  # it was of the record before, which is not the chunk's last any more
        full = len(entry.record) >= self._most or self._bytes >= _MOST_BYTES
        if full or self._has_idle_worker:
            self._open = None
            self._start(entry)
        return True

    def _leave(self) -> None:
        with self._gathering:
            entry, self._open = self._open, None
            if entry is not None:
                self._start(entry)

    @property
    def _has_idle_worker(self) -> bool:
        return len(self._unsettled) < self._chain.workers

    def _settle(self, entry: Entry, result: Any, error: BaseException | None) -> None:
        if error is None and result.seconds:
            in_time = int(_SECONDS * len(entry.record) / result.seconds)
            self._most = max(1, min(in_time, 2 * self._most, _MOST_RECORDS))
        super()._settle(entry, result, error)
        if self._open is not None and self._has_idle_worker:
            self._leave()

    def _emit_outcome(self, entry: Entry) -> None:
        error, outcome = entry.error, entry.result
        if error is not None:
            if isinstance(entry.record, Unsendable):
                self._received[0].ended += 1
                self._policies[0].handle(entry.record.record, error)
            else:
                self._policy.handle(_record_of(entry.record[0]), error)
            return
        for place, (received, emitted) in enumerate(outcome.flow):
            if place:
                self._received[place].begun += received
            self._received[place].ended += received
            self._emitted[place].out += emitted
        entry.record = entry.result = None
        for output in outcome.outputs:
            if self._cancelled:
                raise PipelineCancelledError
            if isinstance(output, Failed):
                self._handle(output)
            else:
                self._emit(output)

    def _handle(self, failed: Failed) -> None:
        try:
            read_outcome(failed.error)
        except BaseException as error:  # noqa: BLE001 - it was raised in the worker
            self._policies[failed.operator].handle(_record_of(failed.record), error)


def _record_of(data: bytes) -> Any:
    """Return a record; one that cannot be read anywhere as its bytes."""
    try:
        return from_bytes(data)
    except Exception:  # noqa: BLE001 - its error is known already
        return data
