"""Functions that turn records into records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Coroutine, Hashable, Iterable
from concurrent.futures import Future
from typing import Any

from sage.common.core.errors import RecordTimeoutError
from sage.common.core.functions.base import BaseFunction
from sage.common.core.functions.start_order import StartOrder


class MapFunction(BaseFunction, ABC):
    """One record in, one record out.

    ``execute`` may be ``async def`` here, in a FilterFunction and in a FlatMapFunction: then many
    records are at work at once, as those of an AsyncMapFunction are, and the class may set the
    attributes that one has. All coroutines of a run share one loop and its thread.
    """

    @abstractmethod
    def execute(self, record: Any) -> Any:
        """Return the record that takes this one's place."""


class AsyncMapFunction(MapFunction):
    """A map whose work runs elsewhere: many records are in flight, and no thread waits for each.

    The kernel calls ``submit`` for record after record, keeps up to ``max_in_flight`` Futures
    open, and hands each result to ``complete`` on the operator's own thread, which also submits
    what is retried: ``submit`` shares no unguarded state with them. The semantics are those of
    Flink's Async I/O.
    """

    ordered: bool = True
    """Emit in input order; False emits each result as soon as it is there."""
    max_in_flight: int | None = None
    """How many records may be in flight; None asks ``default_max_in_flight``."""
    timeout: float | None = None
    """Seconds a record may take from its start, retries included; its Future is then cancelled."""
    retries: int = 0
    """How often a record is submitted again after an error whose ``retryable`` is true."""
    retry_backoff: float = 0.5
    """Seconds before the first retry at most, twice as many before each further one: each record
    waits a random part of them, so that what failed together does not come back together."""
    retry_backoff_max: float = 60.0
    """Seconds before any retry at most."""
    free_arguments: frozenset[str] = frozenset()
    """Arguments of the class that change no result: a checkpoint goes on with other values."""

    @abstractmethod
    def submit(self, record: Any) -> Future[Any]:
        """Start the work on a record; must not wait for it."""

    def complete(self, record: Any, result: Any) -> Any:
        """Return the record to emit, from the input and the result of its Future."""
        del record
        return result

    def default_max_in_flight(self) -> int:
        """Return the window used when ``max_in_flight`` is None."""
        return 64

    def start_order(self) -> StartOrder | None:
        """Return who says which record to start next; None starts each when it comes.

        Called once, before ``setup``. With an order, ``submit`` is called on the operator's thread.
        """
        return None

    def execute(self, record: Any) -> Any:
        """Work on one record and wait for it; raises RecordTimeoutError after ``timeout``."""
        future = self.submit(record)
        try:
            result = future.result(self.timeout)
        except BaseException as error:
            given_up = not future.done()  # else the error is the work's own, a TimeoutError too
            future.cancel()
            if given_up and isinstance(error, TimeoutError) and self.timeout is not None:
                raise RecordTimeoutError(self.ctx.name, self.timeout) from None
            raise
        return self.complete(record, result)


class FilterFunction(BaseFunction, ABC):
    """Decides which records go on."""

    @abstractmethod
    def execute(self, record: Any) -> bool | Coroutine[Any, Any, bool]:
        """Return whether the record stays in the stream."""


class FlatMapFunction(BaseFunction, ABC):
    """One record in, any number out."""

    @abstractmethod
    def execute(
        self, record: Any
    ) -> Iterable[Any] | AsyncIterable[Any] | Coroutine[Any, Any, Iterable[Any] | None] | None:
        """Return or yield the records that take this one's place; None is none of them.

        What an ``async def`` yields goes on when it has yielded all.
        """


class KeyByFunction(BaseFunction, ABC):
    """Gives each record its key."""

    @abstractmethod
    def execute(self, record: Any) -> Hashable:
        """Return the key; records with equal keys reach the same replica, in order."""
