"""ErrorPolicy: what becomes of a record that an operator could not process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sage.kernel.graph import OnError
from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.failed_record import FailedRecord
from sage.kernel.runtime.metrics.counts import ErrorCounts

logger = logging.getLogger(__name__)


def is_skippable(error: BaseException) -> bool:
    """Whether an error may be one record's alone; SystemExit, for one, is not."""
    return isinstance(error, Exception) and getattr(error, "skippable", True)


class ErrorPolicy:
    """Applies an operator's ``on_error``: stop the pipeline, skip the record, or dead-letter it.

    What is no record's error, one that is not ``skippable``, stops the pipeline in any case.
    ``counts`` says how often each of these happened.
    """

    def __init__(
        self,
        operator: str,
        on_error: OnError | Callable[[FailedRecord], Any],
        fail: Callable[..., None],
    ) -> None:
        self._operator = operator
        self._on_error = on_error
        self._fail = fail
        self.counts = ErrorCounts()

    def handle(self, record: Any, error: BaseException, attempts: int = 1) -> None:
        """Return if the pipeline may go on without the record; else raise, to end the thread."""
        counts = self.counts
        failed = FailedRecord(
            operator=self._operator, record=record, error=error, attempts=attempts
        )
        if self._on_error == "raise" or not is_skippable(error):
            with counts.lock:
                counts.failed += 1
            self._fail(failed)
            raise PipelineCancelledError
        if self._on_error == "skip":
            with counts.lock:
                counts.skipped += 1
                counts.first = counts.first or error
            logger.warning("skipped %r: %s", error, failed)
            return
        assert callable(self._on_error)  # noqa: S101 - for the type checker; checked when described
        try:
            with counts.lock:  # parallel replicas share one dead-letter sink
                self._on_error(failed)
                counts.dead_lettered += 1
                counts.first = counts.first or error
        except BaseException as sink_error:
            with suppress(Exception):  # one that is a frozen dataclass takes no attributes
                sink_error.__cause__ = sink_error.__cause__ or error
            with counts.lock:
                counts.failed += 1
            self._fail(
                FailedRecord(operator=self._operator, record=record, error=sink_error),
                note=f"raised by the dead-letter sink, which was handed {error!r} {failed}",
            )
            raise PipelineCancelledError from sink_error
