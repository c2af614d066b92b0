"""Policies: what the operators of one run do about errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage.kernel.graph import FunctionSpec, Operator
from sage.kernel.runtime.checkpoint import DurableSinks
from sage.kernel.runtime.execution.running_functions import RunningFunctions
from sage.kernel.runtime.failed_record import FailedRecord
from sage.kernel.runtime.flow.error_policy import ErrorPolicy
from sage.kernel.runtime.metrics.counts import RunCounts

Fail = Callable[[FailedRecord, str], None]


class Policies:
    """Builds each operator's ErrorPolicy, with its dead-letter sink, once for all its replicas."""

    def __init__(
        self,
        functions: RunningFunctions,
        durable_sinks: DurableSinks,
        counts: RunCounts,
        fail: Fail,
    ) -> None:
        self._functions = functions
        self._durable_sinks = durable_sinks
        self._counts = counts
        self._fail = fail
        self._built: dict[int, ErrorPolicy] = {}

    def of(self, operator: Operator) -> ErrorPolicy:
        """Return an operator's policy; raises what the constructor of its sink raises."""
        found = self._built.get(operator.id)
        if found is not None:
            return found
        on_error: Any = operator.on_error
        if isinstance(on_error, FunctionSpec):
            dead_letter_sink = self._functions.build(operator.name, on_error)
            on_error = self._durable_sinks.add(operator, dead_letter_sink, dead_letters=True)
        policy = self._built[operator.id] = ErrorPolicy(operator.name, on_error, self._fail)
        self._counts[operator].errors = policy.counts
        return policy
