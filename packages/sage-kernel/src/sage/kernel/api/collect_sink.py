"""CollectSink: a sink into a list."""

from __future__ import annotations

from typing import Any

from sage.common.core.functions import SinkFunction


class CollectSink(SinkFunction):
    """Appends every record to a list of the caller's, for tests and notebooks.

    The list is shared by all replicas; appending is thread-safe. As a dead-letter sink it gathers
    FailedRecords::

        answers, failed = [], []
        stream.map(parse, on_error=partial(CollectSink, failed)).sink(CollectSink, answers)

    ``stream.collect()`` does it with a list of its own, and runs the pipeline.

    Args:
        into: the list to append to.
    """

    free_arguments = frozenset({"into"})  # a run that goes on appends to what is there

    def __init__(self, into: list[Any]) -> None:
        if not isinstance(into, list):
            raise TypeError(f"CollectSink takes the list to append to, not {into!r}")
        self._into = into

    def execute(self, record: Any) -> None:
        """Append the record."""
        self._into.append(record)
