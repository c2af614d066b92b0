"""Checkpoint: where a run is, kept so that the next one goes on from there.

The source's records are numbered by position. When one is through an operator, with all that
became of it, a mark says so to the next operator, behind the record's own outputs. A mark that
comes out at the end of the chain therefore means: every record before this position was taken by
the sink, dropped by a filter, skipped or dead-lettered. Now and then, at most once in
``_INTERVAL`` seconds, the latest mark is committed: the sinks' outputs first, then the position
and the sinks' states in one transaction. A run that stops in between has delivered more than was
committed; its successor brings the sinks back to their states. Marks pass operators on the same
thread for free, so keeping a checkpoint costs one call for each record of the source.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sage.kernel.graph import Operator
from sage.kernel.runtime.checkpoint.description import describe, difference, obstacle
from sage.kernel.runtime.checkpoint.durable_sinks import DurableSinks, Mark, States, lost
from sage.kernel.runtime.checkpoint.errors import (
    CheckpointError,
    CheckpointMismatchError,
    UnsupportedPipelineError,
)
from sage.kernel.runtime.push_functions import Push
from sage.kernel.runtime.running_functions import annotate

logger = logging.getLogger(__name__)

_INTERVAL = 0.2  # seconds between commits
_LEAST_PAUSE = 20  # commits on a slow disk: at least so many times what the last one took
_VERSION = 1


class Checkpoint:
    """Open from construction to ``end()`` or ``close()``; no other run can open it meanwhile."""

    def __init__(self, folder: str | os.PathLike[str], operators: Sequence[Operator]) -> None:
        self._folder = str(folder)
        problem = obstacle(operators)
        if problem is not None:
            raise self.unsupported(problem)
        # Only here: a Python without SQLite can do all but this.
        from sage.kernel.runtime.checkpoint.store import CheckpointStore

        self._store = CheckpointStore(Path(folder))
        try:
            self._read(operators)
        except BaseException:
            self._store.close()
            raise
        self._latest: tuple[int, States] = (self.position, self.states)
        self._source_ended = False
        self._due = time.monotonic() + _INTERVAL

    def _read(self, operators: Sequence[Operator]) -> None:
        saved, pipeline = self._store.read(), describe(operators)
        if not saved or (saved["position"] == 0 and not saved["complete"]):  # nothing is done yet
            saved = {"version": _VERSION, "pipeline": pipeline, "position": 0}
            saved |= {"states": {}, "complete": False}
            self._store.write(**saved)
        if saved["version"] != _VERSION:
            problem = f"it has version {saved['version']}, this SAGE reads {_VERSION}; take another"
            raise CheckpointError(self._folder, problem)
        changed = difference(saved["pipeline"], pipeline) or lost(operators, saved["states"])
        if changed:
            raise CheckpointMismatchError(
                self._folder,
                f"another pipeline began it: {changed}. Submit the pipeline that began it, or "
                f"begin anew with another folder or by deleting this one",
            )
        self.position: int = saved["position"]
        self.states: States = saved["states"]
        self.complete: bool = saved["complete"]

    def unsupported(self, problem: str) -> UnsupportedPipelineError:
        """Return the error that says why this pipeline cannot have a checkpoint."""
        return UnsupportedPipelineError(
            self._folder,
            f"{problem}, so that it could not be continued where it stopped. A pipeline with a "
            f"checkpoint is one source, maps, ordered asynchronous maps, filters and flatmaps at "
            f"parallelism 1, and one sink; submit this one without checkpoint=",
        )

    def remaining(self, source: Any, records: Iterator[Any]) -> Iterator[Any]:
        """Yield the records of a source that are not done, by its own ``skip(n)`` if it has one."""
        done = self.position
        if done and hasattr(source, "skip"):
            source.skip(done)
        else:
            for index in range(done):
                if next(records, self) is self:
                    problem = (
                        f"{done} records are done, and the source now has only {index}; restore "
                        f"the source, or begin anew with another folder"
                    )
                    raise CheckpointError(self._folder, problem)
        yield from records
        self._source_ended = True

    def counted(self, push: Push, mark: Mark) -> Push:
        """Return a ``push`` for the source: it marks each record when ``push`` has returned."""
        position = self.position

        def push_and_mark(record: Any) -> None:
            nonlocal position
            push(record)
            position += 1
            mark(position, {})

        return push_and_mark

    def committer(self, sinks: DurableSinks) -> Mark:
        """Return the mark of the chain's end, which commits when it is time to."""
        now: Callable[[], float] = time.monotonic

        def reached_the_end(position: int, states: States) -> None:
            self._latest = (position, states)
            started = now()
            if started >= self._due:
                self.commit(sinks)
                ended = now()
                self._due = ended + max(_INTERVAL, _LEAST_PAUSE * (ended - started))

        return reached_the_end

    def commit(self, sinks: DurableSinks) -> None:
        """Commit the latest mark, if it is not committed yet."""
        position, states = self._latest
        if position == self.position:
            return
        try:
            sinks.sync()
            self._store.write(position=position, states=states)
        except BaseException as error:
            annotate(error, f"while record {position - 1} and those before it were committed")
            raise
        self.position, self.states = position, states

    def end(self, sinks: DurableSinks, *, failed: bool) -> None:
        """Commit what is through; if that is all of the source, publish the outputs."""
        try:
            self.commit(sinks)
            if self._source_ended and not failed:
                sinks.finish()
                self._store.write(complete=True, states={})
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the checkpoint; may be called more than once."""
        self._store.close()
