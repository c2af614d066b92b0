"""CoroutineWindow: the window of an operator that is ``async def``."""

from __future__ import annotations

from typing import Any

from sage.kernel.runtime.coroutines.coroutine_operator import CoroutineOperator
from sage.kernel.runtime.coroutines.kept_calls import POSITION
from sage.kernel.runtime.flow.in_flight_window import Entry, InFlightWindow
from sage.kernel.runtime.flow.link import Push, States
from sage.kernel.runtime.flow.push_functions import emit_each
from sage.kernel.runtime.metrics.counts import Counts


class CoroutineWindow(InFlightWindow):
    """Holds as many records as the services can make use of that the coroutines call.

    A filter and a flatmap emit a list for each record.
    """

    def __init__(
        self, function: CoroutineOperator, *, counts: Counts, emit: Push, **others: Any
    ) -> None:
        if function.kind != "map":
            emit = emit_each(emit, counts)
        super().__init__(function, counts=counts, emit=emit, **others)
        self._operator_of_loop = function
        self._position = function.position  # all before it was pushed
        function.capacities.on_change = self.resize

    def mark(self, position: int, states: States) -> None:
        """Say that all before a position was pushed."""
        self._position = position
        super().mark(position, states)

    def run(self) -> None:
        """Emit all records, and let go of the loop."""
        try:
            super().run()
        finally:
            self._operator_of_loop.leave()

    def _submit(self, entry: Entry) -> None:
        if not entry.attempts:  # the upstream thread pushes it; a later attempt is the emitter's
            entry.position = self._position
        POSITION.set(entry.position)
        super()._submit(entry)
