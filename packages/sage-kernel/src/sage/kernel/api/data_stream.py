"""DataStream: the fluent way to describe a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from sage.common.core.errors import nearest
from sage.common.core.functions import BaseFunction
from sage.common.core.keywords import checks_keywords
from sage.common.core.old_names import missing_attribute
from sage.kernel.api.collect_sink import CollectSink
from sage.kernel.api.collected_records import CollectedRecords
from sage.kernel.api.print_sink import PrintSink
from sage.kernel.graph import FunctionSpec, Operator

Kind = Literal["source", "map", "flatmap", "filter", "keyby", "union", "sink"]


class DataStream:
    """The output of one operator. Every method adds an operator that consumes it.

    These are the arguments of all methods that accept a function.

    Args:
        function: a function class, or a plain callable; a ``functools.partial`` of either holds
            some of its arguments.
        *args: arguments of the class's constructor, or arguments of the callable that are bound
            before the record.
        **kwargs: the same, by name, and the following.
        parallelism: replicas, 1 by default, each with a thread; above 1 the order of records is
            not kept. A RayEnvironment runs them in workers of its cluster, and keeps the order.
        name: the operator's name in errors, logs and metrics, the function's by default; of a
            name that is taken, the second is ``"parse 2"``.
        on_error: ``"raise"``, the default, stops the pipeline and submit() raises the error;
            ``"skip"`` logs the record and goes on; a SinkFunction class or callable, or a partial
            of one, receives a FailedRecord each.
        ordered, max_in_flight, timeout, retries, retry_backoff, retry_backoff_max: of an ``async
            def`` function in map(), flatmap() or filter() alone: as of an AsyncMapFunction, whose
            attributes a class with ``async def execute`` has.
    """

    def __init__(
        self, operators: list[Operator], operator: Operator, submit: Callable[..., None]
    ) -> None:
        self.operators = operators
        self.operator = operator
        self._submit = submit

    def map(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> DataStream:
        """One record in, one out. An AsyncMapFunction keeps many records in flight."""
        return self._add("map", function, args, kwargs)

    def flatmap(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> DataStream:
        """One record in, as many out as the returned or yielded iterable has."""
        return self._add("flatmap", function, args, kwargs)

    def filter(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> DataStream:
        """Keep the records for which the function returns true."""
        return self._add("filter", function, args, kwargs)

    def keyby(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> DataStream:
        """Send records with equal keys to the same replica of the next operator, in order."""
        return self._add("keyby", function, args, kwargs)

    def union(self, *others: DataStream) -> DataStream:
        """Merge with other streams of the same environment, in order of arrival.

        Args:
            *others: the streams, at least one.
        """
        if not others:
            raise TypeError("union() takes at least one other stream")
        for other in others:
            if not isinstance(other, DataStream):
                raise TypeError(f"union() takes streams, not {other!r}")
            if other.operators is not self.operators:
                raise ValueError("union() takes streams of the same environment")
        inputs = tuple(stream.operator.id for stream in (self, *others))
        operator = add_operator(self.operators, "union", None, inputs=inputs, options={})
        return DataStream(self.operators, operator, self._submit)

    def sink(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> DataStream:
        """Hand every record to a sink; returns this stream, so that more can be attached."""
        self._add("sink", function, args, kwargs)
        return self

    def print(self, prefix: str = "", **options: Any) -> DataStream:
        """Print every record on standard output; returns this stream.

        Args:
            prefix: what stands before each record, and a blank.
            **options: ``name`` and ``on_error``, as for all methods.
        """
        return self.sink(PrintSink, prefix, **options)

    @checks_keywords
    def collect(self, *, progress: bool = False) -> list[Any]:
        """Run the environment's pipeline and return this stream's records as a list.

        They are in the order in which the stream has them: that of the input, unless an operator
        has ``parallelism`` above 1 or ``ordered=False``. This is ``sink(CollectSink, records)`` and
        ``submit(progress=progress)``, so it raises what submit() does, and the environment has run
        and is closed after it. All records are held in memory: it is for tests and notebooks, and
        needs a source that ends. A notebook shows the list as a table.

        Args:
            progress: as for submit().

        Example::

            with LocalEnvironment() as env:
                assert env.from_collection([1, 2]).map(lambda n: 2 * n).collect() == [2, 4]
        """
        records = CollectedRecords()
        self.sink(CollectSink, records)
        self._submit(progress=progress)
        return records

    if not TYPE_CHECKING:  # or every misspelt attribute would be Any to a type checker

        def __getattr__(self, name: str) -> Any:
            raise missing_attribute(self, name)

    def _add(
        self,
        kind: Kind,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> DataStream:
        options = {key: kwargs.pop(key) for key in _OPTIONS if key in kwargs}
        spec = FunctionSpec.of(kind, function, args, kwargs)
        inputs = (self.operator.id,)
        operator = add_operator(self.operators, kind, spec, inputs=inputs, options=options)
        return DataStream(self.operators, operator, self._submit)


_OPTIONS = ("parallelism", "name", "on_error")


def source_stream(
    operators: list[Operator],
    submit: Callable[..., None],
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: dict[str, Any],
) -> DataStream:
    """Append a source to a description and return its stream."""
    if isinstance(function, type) and not issubclass(function, BaseFunction):
        raise TypeError(
            f"a source is a SourceFunction, a BatchFunction or a callable, not {function!r}"
        )
    spec = FunctionSpec.of("source", function, args, kwargs)
    operator = add_operator(operators, "source", spec, inputs=(), options=options)
    return DataStream(operators, operator, submit)


def add_operator(
    operators: list[Operator],
    kind: Kind,
    spec: FunctionSpec | None,
    *,
    inputs: tuple[int, ...],
    options: dict[str, Any],
) -> Operator:
    """Append an operator to a description and return it; bad options raise."""
    parallelism = options.get("parallelism", 1)
    if not isinstance(parallelism, int) or parallelism < 1:
        raise ValueError(f"parallelism must be a whole number of at least 1, not {parallelism!r}")
    on_error = options.get("on_error", "raise")
    if isinstance(on_error, str):
        if on_error not in ("raise", "skip"):
            problem = f"on_error takes 'raise', 'skip' or a sink, not {on_error!r}"
            raise ValueError(f"{problem}; {nearest(on_error, ['raise', 'skip'])}")
    else:
        on_error = FunctionSpec.of("sink", on_error, (), {})
    operator = Operator(
        id=len(operators),
        name=_free_name(options.get("name") or (spec.name if spec else kind), operators),
        kind=kind,
        function=spec,
        inputs=inputs,
        parallelism=parallelism,
        on_error=on_error,
    )
    operators.append(operator)
    return operator


def _free_name(name: str, operators: list[Operator]) -> str:
    """Return the name, with a number if it is taken: an error or a figure is of one operator."""
    taken, free, number = {operator.name for operator in operators}, name, 1
    while free in taken:
        number += 1
        free = f"{name} {number}"
    return free
