"""Operator: one node of a pipeline's description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sage.kernel.graph.function_spec import FunctionSpec

OnError = Literal["raise", "skip"]


@dataclass(frozen=True, kw_only=True)
class Operator:
    """What an executor needs to run one step; ``inputs`` are the ids of the operators before it.

    A pipeline's description is the list of its operators, in an order in which every operator
    comes after its inputs.
    """

    id: int
    name: str
    kind: Literal["source", "map", "flatmap", "filter", "keyby", "union", "sink"]
    function: FunctionSpec | None
    inputs: tuple[int, ...] = ()
    parallelism: int = 1
    on_error: OnError | FunctionSpec = "raise"
