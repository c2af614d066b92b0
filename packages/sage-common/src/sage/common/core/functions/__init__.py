"""The base classes of all functions that a pipeline is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from sage.common.core.functions.base import BaseFunction
    from sage.common.core.functions.sinks import SinkFunction
    from sage.common.core.functions.sources import (
        BatchFunction,
        SourceFunction,
        StopSignal,
        UnreadableRecord,
    )
    from sage.common.core.functions.start_order import StartOrder
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
    "StartOrder",
    "StopSignal",
    "UnreadableRecord",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AsyncMapFunction": "sage.common.core.functions.transforms",
        "BaseFunction": "sage.common.core.functions.base",
        "BatchFunction": "sage.common.core.functions.sources",
        "FilterFunction": "sage.common.core.functions.transforms",
        "FlatMapFunction": "sage.common.core.functions.transforms",
        "KeyByFunction": "sage.common.core.functions.transforms",
        "MapFunction": "sage.common.core.functions.transforms",
        "SinkFunction": "sage.common.core.functions.sinks",
        "SourceFunction": "sage.common.core.functions.sources",
        "StartOrder": "sage.common.core.functions.start_order",
        "StopSignal": "sage.common.core.functions.sources",
        "UnreadableRecord": "sage.common.core.functions.sources",
    },
)
