"""The description of a pipeline: plain data that an executor runs."""

from __future__ import annotations

from sage.kernel.graph.function_spec import FunctionSpec
from sage.kernel.graph.operator import OnError, Operator

__all__ = ["FunctionSpec", "OnError", "Operator"]
