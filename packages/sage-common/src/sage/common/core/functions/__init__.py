"""The base classes of all functions that a pipeline is made of."""

from __future__ import annotations

from sage.common.core.functions.base import BaseFunction
from sage.common.core.functions.sinks import SinkFunction
from sage.common.core.functions.sources import (
    BatchFunction,
    SourceFunction,
    StopSignal,
    UnreadableRecord,
)
from sage.common.core.functions.transforms import (
    AsyncMapFunction,
    FilterFunction,
    FlatMapFunction,
    KeyByFunction,
    MapFunction,
)

__all__ = [
    "AsyncMapFunction",
    "BaseFunction",
    "BatchFunction",
    "FilterFunction",
    "FlatMapFunction",
    "KeyByFunction",
    "MapFunction",
    "SinkFunction",
    "SourceFunction",
    "StopSignal",
    "UnreadableRecord",
]
