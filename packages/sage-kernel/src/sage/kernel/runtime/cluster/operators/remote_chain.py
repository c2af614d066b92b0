"""RemoteChain: runs chunks of records through a chain of operators in workers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sage.common.core.background import in_background
from sage.common.core.functions import AsyncMapFunction
from sage.common.core.futures import cancel_with, settle
from sage.common.service import ServiceClosedError
from sage.kernel.graph import Operator
from sage.kernel.runtime.cluster.cluster import Need
from sage.kernel.runtime.cluster.errors import (
    PoisonCallError,
    ReplicaDiedError,
    WorkerDiedError,
)
from sage.kernel.runtime.cluster.mail.carriage import error_outcome, from_bytes, to_bytes
from sage.kernel.runtime.cluster.operators.chain_service import (
    ChainService,
    Failed,
    Processed,
)
from sage.kernel.runtime.cluster.replicas.hosted_service import hosting
from sage.kernel.runtime.cluster.replicas.replica_set import ReplicaSet
from sage.kernel.runtime.cluster.replicas.replicated_service import Join, answer
from sage.kernel.runtime.cluster.replicas.supervision import Supervision
from sage.kernel.runtime.metrics.replica_status import ReplicaStatus
from sage.kernel.runtime.service.service_factory import ServiceFactory

CHUNKS_PER_WORKER = 4
"""In flight: two in the worker, the others on their way there and back."""


@dataclass(frozen=True)
class Outcome:
    """What became of some records: outputs in order, Failed ones among them, and the counts.

    ``flow`` has for each operator how many records it received and emitted. ``seconds`` is what a
    worker took for them.
    """

    outputs: list[Any]
    flow: tuple[tuple[int, int], ...]
    seconds: float = 0.0


@dataclass(frozen=True)
class Unsendable:
    """A record that cannot be made bytes of, and why."""

    record: Any
    error: Exception


class RemoteChain(AsyncMapFunction):
    """Has chunks of records run through operators in workers.

    A chunk whose worker died is run again by another. If that dies too, and a third one that has
    nothing else to do, a record in it must be what kills: the chunk is run again in halves, and the
    half that kills in halves, until one record is left. That is run operator by operator, so that
    the error is of the one that it kills.

    Args:
        operators: the chain.
        workers: how many there are at most.
        need: what each takes of its machine.
        supervision: when they are replaced.
        join: returns the cluster.
    """

    def __init__(
        self,
        operators: Sequence[Operator],
        workers: int,
        need: Need,
        supervision: Supervision,
        join: Join,
    ) -> None:
        # What becomes of a record that fails is this process's business, and need not be sendable.
        self._operators = [
            operator if operator.on_error == "raise" else replace(operator, on_error="skip")
            for operator in operators
        ]
        self.workers = workers
        self._need = need
        self._supervision = supervision
        self._join = join
        self._set: ReplicaSet | None = None
        self.max_in_flight = CHUNKS_PER_WORKER * workers

    def setup(self) -> None:
        """Start the workers; raises what a function's constructor or setup raises."""
        name = " → ".join(operator.name for operator in self._operators)
        what = f"operator {name!r}"
        cluster, placement = self._join(name, self._states)
        self.workers = placement.take_for_workers(what, self._need, self.workers)
        factory = ServiceFactory(service_class=ChainService, args=(self._operators,))
        parts = {f"operator {each.name!r}": each.function for each in self._operators}
        hosted = hosting(name, what, factory, parts)
        self._set = ReplicaSet(
            name,
            f"a worker of {what}",
            partial(cluster.start, hosted, self._need),
            most=self.workers,
            takes=str(self._need),
            replayable=True,
            ask=partial(answer, self.ctx.services, None),
            supervision=self._supervision,
        )
        self._set.open(1)

    def submit(self, record: Sequence[bytes] | Unsendable) -> Future[Outcome]:
        """Run one chunk of records, as bytes; the Future's result is an Outcome."""
        if isinstance(record, Unsendable):
            raise record.error
        outcome: Future[Outcome] = Future()
        run = self._call(record, 0, len(self._operators))

        def pass_on(done: Future[Any]) -> None:
            if done.cancelled():
                outcome.cancel()
            if not outcome.set_running_or_notify_cancel():
                return
            if isinstance(error := done.exception(), PoisonCallError):
                search = partial(self._in_parts, record, 0, len(self._operators))
                in_background(settle, outcome, search, error.reason)
            elif error is not None:
                outcome.set_exception(error)
            elif (processed := done.result()).left:
                in_background(settle, outcome, partial(self._share_rest, record), processed)
            else:
                settle(outcome, _outcome, processed)

        run.add_done_callback(pass_on)
        cancel_with(outcome, run)
        return outcome

    def finish(self) -> None:
        """Clean up the functions of all workers; raises the first error of that."""
        if self._set is not None:
            with suppress(ReplicaDiedError):  # those of a worker that died are gone
                self._set.call_each("finish", (), {}, change=False)

    def cleanup(self) -> None:
        """End the workers."""
        if self._set is not None:
            self._set.close(ServiceClosedError(self.ctx.name))

    def _call(
        self, chunk: Sequence[bytes], first: int, last: int, *, suspect: bool = False
    ) -> Future[Any]:
        if self._set is None:
            raise ServiceClosedError(self.ctx.name, "its workers have not been started")
        whole = {"whole": suspect}
        return self._set.call("process_chunk", (chunk, first, last), whole, suspect=suspect)

    def _states(self) -> list[ReplicaStatus]:
        return [] if self._set is None else self._set.status()

    def _share_rest(self, chunk: Sequence[bytes], processed: Processed) -> Outcome:
        """Share among all workers what one has not begun of a chunk."""
        rest = chunk[-processed.left :]
        share = -(-len(rest) // self.workers)
        parts = [self.submit(rest[at : at + share]) for at in range(0, len(rest), share)]
        return _joined([_outcome(processed), *(part.result() for part in parts)])

    # -- what kills workers -----------------------------------------------------------------------

    def _part(self, chunk: Sequence[bytes], first: int, last: int) -> Outcome:
        if not chunk:
            return Outcome([], ((0, 0),) * (last - first))
        try:
            return _outcome(self._call(chunk, first, last, suspect=True).result())
        except PoisonCallError as error:
            return self._in_parts(chunk, first, last, error.reason)

    def _in_parts(self, chunk: Sequence[bytes], first: int, last: int, reason: str) -> Outcome:
        """Run a chunk again of which something kills, in parts."""
        if len(chunk) > 1:
            middle = len(chunk) // 2
            halves = chunk[:middle], chunk[middle:]
            return _joined([self._part(half, first, last) for half in halves])
        if last - first == 1:
            error = WorkerDiedError(self._operators[first].name, reason)
            return Outcome([Failed(first, chunk[0], error_outcome(error))], ((1, 0),))
        one = self._part(chunk, first, first + 1)
        # A flatmap may have emitted some before it failed: they go on, as they would have.
        failed = [output for output in one.outputs if isinstance(output, Failed)]
        went_on = [to_bytes(output) for output in one.outputs if not isinstance(output, Failed)]
        rest = self._part(went_on, first + 1, last)
        return Outcome([*rest.outputs, *failed], (*one.flow, *rest.flow))


def _outcome(processed: Processed) -> Outcome:
    return Outcome(from_bytes(processed.outputs), tuple(processed.flow), processed.seconds)


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcomes of parts of a chunk as one."""
    flows = zip(*(each.flow for each in outcomes), strict=True)
    return Outcome(
        [output for each in outcomes for output in each.outputs],
        tuple((sum(ins), sum(outs)) for ins, outs in (zip(*flow, strict=True) for flow in flows)),
        sum(each.seconds for each in outcomes),
    )
