"""DurableSinks: the durable sinks of one run, and the state of each when a mark passed it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sage.kernel.graph import FunctionSpec, Operator
from sage.kernel.runtime.checkpoint.durable_sink import DurableSink
from sage.kernel.runtime.flow.link import Mark, States


class _Guarded:
    """Calls a durable sink from one thread at a time: commits have a thread of their own."""

    def __init__(self, sink: DurableSink) -> None:
        self.begin, self.finish = sink.begin, sink.finish
        self._sink = sink
        self._lock = threading.Lock()

    def execute(self, record: Any) -> None:
        with self._lock:
            self._sink.execute(record)

    def state(self) -> Any:
        with self._lock:
            return self._sink.state()

    def sync(self) -> None:
        with self._lock:
            self._sink.sync()


class DurableSinks:
    """Opens the durable sinks of a run and publishes their outputs at its end."""

    def __init__(self) -> None:
        self._sinks: dict[str, _Guarded] = {}
        self._writers: dict[str, str] = {}  # of each output, the operator

    def add(
        self, operator: Operator, function: Any, *, dead_letters: bool = False
    ) -> Callable[[Any], Any]:
        """Take a sink, or a dead-letter sink; return what is to be called with its records."""
        if not isinstance(function, DurableSink):
            execute: Callable[[Any], Any] = function.execute
            return execute
        key = _key(operator, dead_letters=dead_letters)
        if key in self._sinks:
            raise ValueError(
                f"{type(function).__name__} writes one output, and sink {operator.name!r} has "
                f"parallelism={operator.parallelism}; leave it at 1"
            )
        output = function.output_name()
        if output is not None:
            if output in self._writers:
                raise ValueError(
                    f"operators {self._writers[output]!r} and {operator.name!r} of this run both "
                    f"write {output}; give each an output of its own"
                )
            self._writers[output] = operator.name
        sink = self._sinks[key] = _Guarded(function)
        return sink.execute

    def begin(self, states: Mapping[str, Any]) -> None:
        """Open every output, at the state it had if there is one."""
        for key, sink in self._sinks.items():
            sink.begin(states.get(key))

    def sync(self) -> None:
        """Make what was delivered to them outlive a power cut."""
        for sink in self._sinks.values():
            sink.sync()

    def finish(self) -> None:
        """Publish every output."""
        for sink in self._sinks.values():
            sink.finish()

    def stating(self, operator: Operator, mark: Mark) -> Mark:
        """Return ``mark`` with the states of the operator's sinks added as it passes them."""
        for dead_letters in (False, True):
            key = _key(operator, dead_letters=dead_letters)
            if key in self._sinks:
                mark = _adding(key, self._sinks[key], mark)
        return mark


def lost(operators: Sequence[Operator], states: States) -> str:
    """Say in words which sink has a state, but is no longer there; empty if none is missing."""
    for operator in operators:
        for dead_letters, function in ((False, operator.function), (True, operator.on_error)):
            if _key(operator, dead_letters=dead_letters) in states and not _is_durable(function):
                sink = "dead-letter sink" if dead_letters else "sink"
                return f"the {sink} of {operator.name!r} is gone, which would lose what it wrote"
    return ""


def output_problem(operators: Sequence[Operator]) -> str | None:
    """Return what is wrong with an output of a run that is complete; None if all are there."""
    for operator in operators:
        if operator.kind == "sink" and operator.function and _is_durable(operator.function):
            problem: str | None = operator.function.build().output_problem()
            if problem is not None:
                return problem
    return None


def _is_durable(function: FunctionSpec | str | None) -> bool:
    target = function.target if isinstance(function, FunctionSpec) else None
    return isinstance(target, type) and issubclass(target, DurableSink)


def _key(operator: Operator, *, dead_letters: bool) -> str:
    return f"{operator.id}.on_error" if dead_letters else str(operator.id)


def _adding(key: str, sink: _Guarded, mark: Mark) -> Mark:
    def add(position: int, states: States) -> None:
        mark(position, {**states, key: sink.state()})

    return add
