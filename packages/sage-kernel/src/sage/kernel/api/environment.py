"""Environment: what all environments have: streams, services, and a run of them."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from sage.common.core.keywords import checks_keywords
from sage.common.core.old_names import missing_attribute
from sage.kernel.api.asyncio_runs import AsyncioRuns
from sage.kernel.api.data_stream import DataStream, source_stream
from sage.kernel.api.environment_services import EnvironmentServices
from sage.kernel.api.generator_source import GeneratorSource
from sage.kernel.api.iterable_source import IterableSource
from sage.kernel.graph import FunctionSpec, Operator
from sage.kernel.runtime.checkpoint import Checkpoint
from sage.kernel.runtime.checkpoint.input_check import InputGrew
from sage.kernel.runtime.execution.local_executor import LocalExecutor
from sage.kernel.runtime.failed_record import FailedRecord
from sage.kernel.runtime.metrics.counts import RunCounts
from sage.kernel.runtime.metrics.run_metrics import RunMetrics
from sage.kernel.runtime.progress.display import ProgressDisplay

logger = logging.getLogger(__name__)

_SOURCE_OPTIONS: tuple[str, ...] = ("name", "on_error")
_CALL_LATER = (
    "call it before, or use submit(autostop=False) with wait() and call it until close(); an open "
    "service that is registered as an instance can be called by itself at any time"
)


class Environment(AsyncioRuns, EnvironmentServices):
    """Holds services and a pipeline, and runs them once.

    Args:
        name: the pipeline's name in logs, errors and metrics.
        config: its configuration, checked and whole.
    """

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.operators: list[Operator] = []
        self._executor: LocalExecutor | None = None
        self._checkpoint: Checkpoint | None = None
        self._progress: ProgressDisplay | None = None

    # -- sources --------------------------------------------------------------------------------

    def from_source(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> DataStream:
        """Start a stream from a function that produces its records.

        Args:
            function: a SourceFunction, a generator function, or a callable that returns a record
                each time until it returns a StopSignal.
            *args: the function's arguments.
            **kwargs: the same, by name.
            name: as for the operators of a DataStream.
            on_error: as for them; it is for the records that a source cannot read, see
                UnreadableRecord.
        """
        options = {key: kwargs.pop(key) for key in _SOURCE_OPTIONS if key in kwargs}
        if inspect.isgeneratorfunction(function):
            options.setdefault(
                "name", FunctionSpec(kind="source", target=function, args=args, kwargs=kwargs).name
            )
            args, kwargs = (partial(function, *args, **kwargs),), {}
            function = GeneratorSource
        return source_stream(self.operators, self.submit, function, args, kwargs, options)

    def from_batch(
        self, function: Callable[..., Any] | Iterable[Any], *args: Any, **kwargs: Any
    ) -> DataStream:
        """Start a stream from a BatchFunction, or as from_source or from_collection do.

        Args:
            function: a BatchFunction, or what one of the other two accepts.
            *args: its arguments.
            **kwargs: the same, by name, and ``name`` and ``on_error``.
        """
        if isinstance(function, type) or callable(function):
            return self.from_source(function, *args, **kwargs)
        return self.from_collection(function, *args, **kwargs)

    @checks_keywords
    def from_collection(self, records: Iterable[Any], *, name: str | None = None) -> DataStream:
        """Start a stream of an iterable's items.

        Args:
            records: the iterable; a generator is read as the pipeline goes.
            name: the source's name in errors, logs and metrics.
        """
        if isinstance(records, str | bytes) or not isinstance(records, Iterable):
            raise TypeError(f"from_collection() takes an iterable of records, not {records!r}")
        options = {"name": name or "collection"}
        return source_stream(self.operators, self.submit, IterableSource, (records,), {}, options)

    # -- running --------------------------------------------------------------------------------

    @checks_keywords
    def submit(
        self,
        autostop: bool = True,  # noqa: FBT001 - SAGE's signature
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        input_grew: InputGrew = "refuse",
        progress: bool = False,
    ) -> None:
        """Open the services and run the pipeline.

        Raises what a service's or function's setup() raises, before any record moves; the error
        of an operator, with its own type and traceback and a note that names operator and record
        (``failure`` has them as data); AllRecordsFailedError where ``on_error`` let the run go on
        and each of ten or more records failed; PipelineCancelledError if another thread closes the
        environment before the last record is through; KeyboardInterrupt. Whatever it raises,
        everything is closed.

        Args:
            autostop: True returns after the last record, all services closed; False returns at
                once, and ``wait``, ``stop`` or ``close`` end the run.
            checkpoint: a folder. A run that stopped for any reason goes on where it was when the
                same pipeline is submitted again, and one that is complete does nothing. A
                DurableSink then has every record once; any other sink gets again what it was given
                after the last commit before a kill, 0.2 seconds and the time of two commits at
                most. Raises a CheckpointError if the pipeline cannot have one, is another one, or
                is being run, and if its input, or what its services answer with, has changed.
            input_grew: ``"refuse"``, or ``"continue"`` to process records that were added to the
                input.
            progress: show the run until its end on standard error: drawn in place on a terminal
                and in a notebook, told in a line every few seconds elsewhere, and summed up in a
                last line.
        """
        if self._executor is not None:
            raise RuntimeError(f"environment {self.name!r} was submitted already; make a new one")
        if not any(operator.kind == "source" for operator in self.operators):
            raise RuntimeError(
                f"environment {self.name!r} has no stream; begin one with from_collection(), "
                f"from_batch() or from_source()"
            )
        try:
            if checkpoint is not None:
                said = self.service_manager.identities()
                self._checkpoint = Checkpoint(
                    checkpoint,
                    self.operators,
                    as_run=self._as_run(),
                    services=said,
                    input_grew=input_grew,
                )
            executor = self._start(self._checkpoint, progress=progress)
            if autostop:
                executor.wait(tell_endless=True)
        except BaseException as error:
            self._close("it has been closed, since the run ended with an error")
            if isinstance(error, KeyboardInterrupt):
                self._say_what_is_kept(error)
            raise
        if autostop:
            self._close("submit() has closed it, after the last record", hint=_CALL_LATER)

    def wait(self) -> None:
        """Wait for the last record of a submitted pipeline; raises what stopped it."""
        if self._executor is None:
            raise RuntimeError(f"environment {self.name!r} has not been submitted")
        try:
            self._executor.wait()
        except KeyboardInterrupt as interrupt:
            self._say_what_is_kept(interrupt)
            raise  # the run itself goes on until it is closed
        except BaseException:
            self._end_progress()
            raise
        self._end_progress()

    def stop(self) -> None:
        """End the sources, let what they emitted through, close; raises what stopped the run.

        A DurableSink publishes its output only if the sources were at their end already.

        Called by a function of the pipeline, or by a service that submit() opens, it ends the
        sources and returns at once.
        """
        if self._executor is not None:
            self._executor.stop()
            if self._executor.on_own_thread:
                return
        try:
            if self._executor is not None:
                self._executor.wait()
        finally:
            self.close()

    def close(self) -> None:
        """Cancel what runs and close all services; may be called more than once.

        Called by a function of the pipeline, or by a service that submit() opens, it cancels and
        returns at once; submit(), or a later close(), does the rest.
        """
        self._close("it has been closed with its environment")

    def metrics(self) -> RunMetrics:
        """Return what every operator has done so far; from any thread, before, during and after."""
        if self._executor is None:
            return RunCounts(self.name, self.operators).read("new")
        return self._executor.metrics()

    @property
    def failure(self) -> FailedRecord | None:
        """The operator, record and error that stopped the pipeline, if any did."""
        return self._executor.failure if self._executor else None

    if not TYPE_CHECKING:  # or every misspelt attribute would be Any to a type checker

        def __getattr__(self, name: str) -> Any:
            raise missing_attribute(self, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.operators and self._executor is None:
            logger.warning(
                "environment %r is closed and its pipeline was never run: call submit()", self.name
            )
        self.close()

    def _close(self, why: str, *, hint: str | None = None) -> None:
        if self._executor is not None and self._executor.on_own_thread:
            self._executor.cancel()
            return
        with ExitStack() as stack:  # all of it, also after another Ctrl-C
            stack.callback(self.service_manager.close, why, hint=hint)
            if self._executor is not None:
                stack.callback(self._end_progress)
                self._executor.cancel()
                self._executor.join(self.config["close_timeout"])

    def _say_what_is_kept(self, interrupt: BaseException) -> None:
        if self._checkpoint is not None:
            self._checkpoint.say_what_is_kept(interrupt)

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.end()

    def _as_run(self) -> Sequence[Operator]:
        """Return the description as an executor runs it: here, the one that was given."""
        return self.operators

    def _start(self, checkpoint: Checkpoint | None, *, progress: bool) -> LocalExecutor:
        complete = checkpoint is not None and checkpoint.complete
        executor = self._executor = LocalExecutor(
            self.name,
            () if complete else self._as_run(),
            self.service_manager,
            channel_capacity=self.config["channel_capacity"],
            close_timeout=self.config["close_timeout"],
            checkpoint=checkpoint,
        )

        def open_services() -> None:
            if complete:
                logger.info("pipeline %r is complete; there is nothing to do", self.name)
            else:
                self.service_manager.start()
                if self.service_manager.closed:  # meanwhile
                    executor.cancel()
                elif checkpoint is not None:
                    checkpoint.check_services(self.service_manager.identities())
            if progress:
                self._progress = ProgressDisplay(self.metrics)
                self._progress.start()

        executor.start(open_services)
        return executor
