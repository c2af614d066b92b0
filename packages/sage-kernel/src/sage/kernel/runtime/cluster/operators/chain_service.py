"""ChainService: a chain of operators in a worker, which is handed chunks of records."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sage.common.service import BaseService
from sage.kernel.graph import Operator
from sage.kernel.runtime.annotate import annotate
from sage.kernel.runtime.cluster.mail.carriage import error_outcome, from_bytes, to_bytes
from sage.kernel.runtime.coroutines.run_loop import RunLoop
from sage.kernel.runtime.execution.running_functions import RunningFunctions
from sage.kernel.runtime.flow.error_policy import ErrorPolicy, is_skippable
from sage.kernel.runtime.flow.push_functions import PUSH_FUNCTIONS
from sage.kernel.runtime.metrics.counts import Counts

_AT_ONCE = 1.0  # seconds of work after which the rest of a chunk is given back


@dataclass(frozen=True, slots=True)
class Failed:
    """A record that an operator of a chain could not process, in the place of its outputs.

    Args:
        operator: the operator's place in the chain.
        record: the record as bytes, as that operator received it.
        error: the error, see ``carriage``.
    """

    operator: int
    record: bytes
    error: bytes


class Processed(NamedTuple):
    """What a worker says of a chunk.

    Args:
        outputs: as bytes, each in the order of its record, and Failed ones among them.
        flow: how many records each operator received and emitted.
        seconds: what it took.
        left: records at the end of the chunk that it has not begun.
    """

    outputs: bytes
    flow: list[tuple[int, int]]
    seconds: float
    left: int


class _Stop(Exception):  # noqa: N818 - it ends a chunk, and is no error
    """An operator stops the run at a record: what follows it in the chunk is not processed."""


class _Collecting(ErrorPolicy):
    """Leaves it to the pipeline's process what becomes of a record."""

    def __init__(self, place: int, operator: Operator, outputs: list[Any]) -> None:
        super().__init__(operator.name, "raise", lambda _: None)
        self._place = place
        self._stops = operator.on_error == "raise"
        self._outputs = outputs
        self.failures = 0

    def handle(self, record: Any, error: BaseException, attempts: int = 1) -> None:
        """Put the error where the record's outputs would be."""
        del attempts
        self.refuse(_record_bytes(record), error)

    def refuse(self, record: bytes, error: BaseException) -> None:
        """Do so for a record that is given as bytes."""
        self.failures += 1
        self._outputs.append(Failed(self._place, record, error_outcome(error, exits=True)))
        if self._stops or not is_skippable(error):
            raise _Stop


class ChainService(BaseService):
    """Runs each record of a chunk through operators, and returns what became of them, in order.

    Args:
        operators: the chain.
    """

    max_concurrency = 1
    capacity = 2  # one at work, and the next one

    def __init__(self, operators: Sequence[Operator]) -> None:
        self._operators = operators
        self._functions: RunningFunctions | None = None
        self._executes: list[Callable[[Any], Any]] = []
        self._loop = RunLoop(0.0, lambda: True)  # of no coroutines but a setup() and a cleanup()

    def setup(self) -> None:
        """Build the functions and set them up; raises what that raises."""
        self._functions = functions = RunningFunctions(self.ctx.services, self._loop)
        for operator in self._operators:
            assert operator.function is not None  # noqa: S101 - none of a chain is a union
            self._executes.append(functions.build(operator.name, operator.function).execute)
        failed = functions.set_up(unless=lambda: False)
        if failed is not None:
            raise failed.error

    def finish(self) -> None:
        """Clean the functions up, unless that was done; raises the first error of it."""
        functions, self._functions = self._functions, None
        failures = [] if functions is None else functions.clean_up()
        self._loop.close()
        if failures:
            raise failures[0].error

    def cleanup(self) -> None:
        """Clean the functions up; where the run ended well that was done before."""
        self.finish()

    def process_chunk(
        self, chunk: Sequence[bytes], first: int, last: int, *, whole: bool = False
    ) -> Processed:
        """Run records through the operators from ``first`` to before ``last``.

        Ends before the chunk does where that lasts, unless it is to be the ``whole`` one: others
        may have nothing to do.
        """
        started = time.perf_counter()
        outputs: list[Any] = []
        policies = [_Collecting(n, self._operators[n], outputs) for n in range(first, last)]
        counts = [Counts() for _ in policies]
        push: Callable[[Any], None] = outputs.append
        for place in reversed(range(last - first)):
            kind, execute = self._operators[first + place].kind, self._executes[first + place]
            push = PUSH_FUNCTIONS[kind](execute, policies[place], push, counts[place])
        begun: list[int] = []  # where the outputs of each record begin
        left = 0
        try:
            for packed in chunk:
                if begun and not whole and time.perf_counter() - started > _AT_ONCE:
                    left = len(chunk) - len(begun)
                    break
                begun.append(len(outputs))
                try:
                    record = from_bytes(packed)
                except Exception as error:  # noqa: BLE001 - such as a module that is not here
                    annotate(error, "the record could not be read in the worker's process")
                    policies[0].refuse(packed, error)
                    continue
                push(record)
        except _Stop:
            pass
        flow = []
        received = len(begun)
        for place in range(last - first):
            one_to_one = self._operators[first + place].kind == "map"
            failures = policies[place].failures
            emitted = received - failures if one_to_one else counts[place].variable_out()
            flow.append((received, emitted))
            received = emitted
        data = self._carried(outputs, chunk, begun, last - 1)
        return Processed(data, flow, time.perf_counter() - started, left)

    def _carried(
        self, outputs: list[Any], chunk: Sequence[bytes], begun: Sequence[int], place: int
    ) -> bytes:
        """Return outputs as bytes; one that cannot go is the error of the record it came of."""
        try:
            return to_bytes(outputs)
        except Exception:  # noqa: BLE001 - which one is it?
            carried: list[Any] = []
        for record, start, end in zip(chunk, begun, [*begun[1:], len(outputs)], strict=False):
            try:
                of_record = outputs[start:end]
                to_bytes(of_record)
                carried += of_record
            except Exception as error:  # noqa: BLE001 - it is the record's
                annotate(error, "what the worker made of the record could not be sent from there")
                carried.append(Failed(place, record, error_outcome(error)))
        return to_bytes(carried)


def _record_bytes(record: Any) -> bytes:
    """Return a record as bytes; one that cannot go as a text that says what it was."""
    try:
        return to_bytes(record)
    except Exception:  # noqa: BLE001 - its error matters more
        return to_bytes(repr(record))
