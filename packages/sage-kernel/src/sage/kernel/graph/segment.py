"""Segment: operators one after the other that run together, in as many workers as they have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sage.common.core.functions import AsyncMapFunction
from sage.kernel.graph.function_spec import FunctionSpec
from sage.kernel.graph.operator import Operator

_KINDS = ("map", "filter", "flatmap")


@dataclass(frozen=True, kw_only=True)
class Segment(Operator):
    """Stands in a description for ``operators``: by the id of the last and the inputs of the first.

    What follows sees one operator of parallelism 1, which keeps the order of its records.
    """

    operators: tuple[Operator, ...]
    spec: FunctionSpec
    """Makes the AsyncMapFunction that runs chunks of records through the operators."""


def segments(
    operators: Sequence[Operator], spec: Callable[[tuple[Operator, ...]], FunctionSpec]
) -> list[Operator]:
    """Return a description in which what may run in workers does; ``spec`` makes a segment's.

    That is each longest chain of maps, filters and flatmaps with the same parallelism above 1. What
    has parallelism 1 exists once, and stays; so do operators that keep many records in flight, and
    those behind a keyby, each of which has the records of its keys alone.
    """
    consumers: dict[int, list[Operator]] = {operator.id: [] for operator in operators}
    for operator in operators:
        for input_id in operator.inputs:
            consumers[input_id].append(operator)
    by_id = {operator.id: operator for operator in operators}
    found: list[Operator] = []
    taken: set[int] = set()
    for operator in operators:
        if operator.id in taken:
            continue
        if not _may_leave(operator, by_id):
            found.append(operator)
            continue
        chain = [operator]
        while len(after := consumers[chain[-1].id]) == 1 and _goes_with(after[0], operator, by_id):
            chain.append(after[0])
        taken.update(each.id for each in chain)
        found.append(_segment(tuple(chain), spec(tuple(chain))))
    return sorted(found, key=lambda operator: operator.id)


def expanded(operators: Sequence[Operator]) -> list[Operator]:
    """Return a description's own operators, those of its segments in their places."""
    own = [
        each
        for operator in operators
        for each in (operator.operators if isinstance(operator, Segment) else (operator,))
    ]
    return sorted(own, key=lambda operator: operator.id)


def _segment(chain: tuple[Operator, ...], spec: FunctionSpec) -> Segment:
    last = chain[-1]
    return Segment(
        id=last.id,
        name=last.name,
        kind="map",
        function=None,
        inputs=chain[0].inputs,
        operators=chain,
        spec=spec,
    )


def _may_leave(operator: Operator, by_id: dict[int, Operator]) -> bool:
    if operator.parallelism == 1 or operator.kind not in _KINDS or operator.function is None:
        return False
    if any(by_id[input_id].kind == "keyby" for input_id in operator.inputs):
        return False
    target = operator.function.target
    if isinstance(target, type) and issubclass(target, AsyncMapFunction):
        return False
    return not operator.function.is_async


def _goes_with(operator: Operator, first: Operator, by_id: dict[int, Operator]) -> bool:
    return operator.parallelism == first.parallelism and _may_leave(operator, by_id)
