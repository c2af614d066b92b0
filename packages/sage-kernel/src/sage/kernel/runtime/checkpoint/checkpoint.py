"""Checkpoint: where a run is, kept so that the next one goes on from there.

The source's records are numbered by position. When one is through an operator, with all that
became of it, a mark says so to the next operator, behind the record's own outputs. A mark that
comes out at the end of the chain therefore means: every record before this position was taken by
the sink, dropped by a filter, skipped or dead-lettered. A thread of the checkpoint's own commits
the latest mark ``_INTERVAL`` seconds after the first one that is not committed yet, whatever the
threads of the pipeline wait for by then: the sinks' outputs first, then the position and the
sinks' states in one transaction. A run that stops in between has delivered more than was
committed; its successor brings the sinks back to their states. Marks pass operators on the same
thread for free, so keeping a checkpoint costs one call for each record of the source.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, get_args

from sage.common.core.errors import nearest
from sage.common.core.functions import StopSignal
from sage.common.core.local_path import local_path
from sage.kernel.graph import Operator
from sage.kernel.runtime.annotate import annotate
from sage.kernel.runtime.checkpoint.durable_sinks import DurableSinks, lost, output_problem
from sage.kernel.runtime.checkpoint.errors import (
    CheckpointError,
    CheckpointMismatchError,
    ServiceChangedError,
    UnsupportedPipelineError,
)
from sage.kernel.runtime.checkpoint.input_check import InputCheck, InputGrew
from sage.kernel.runtime.checkpoint.pipeline_description import describe, difference, obstacle
from sage.kernel.runtime.checkpoint.service_check import (
    Identities,
    merged,
    plain,
    services_difference,
)
from sage.kernel.runtime.flow.link import Mark, States

if TYPE_CHECKING:
    from sage.kernel.runtime.checkpoint.call_journal import CallJournal

_INTERVAL = 0.2  # seconds
_VERSION = 2


class Checkpoint:
    """Open from construction to ``end()`` or ``close()``; no other run can open it meanwhile.

    It commits from ``begin()`` to ``stop()``, and once more at the end.

    Args:
        folder: where it is kept.
        operators: the pipeline, by which it is known again.
        as_run: the same as an executor runs it, if that is another description.
        services: what the services say of themselves.
        input_grew: what to do with an input to which records were added.
    """

    _committing: threading.Thread  # set by begin()
    position = 0
    complete = False
    _fresh = False  # nothing had been done when it was opened
    _nothing_came = False
    _calls: CallJournal | None = None
    _calls_stay = False  # after close(): there are some of records that are not done

    def __init__(
        self,
        folder: str | os.PathLike[str],
        operators: Sequence[Operator],
        *,
        as_run: Sequence[Operator] | None = None,
        services: Identities | None = None,
        input_grew: InputGrew = "refuse",
    ) -> None:
        self.folder = str(folder)
        if input_grew not in get_args(InputGrew):
            hint = nearest(str(input_grew), list(get_args(InputGrew)))
            raise ValueError(f"unknown input_grew {input_grew!r}; {hint}")
        problem = obstacle(operators if as_run is None else as_run)
        if problem is not None:
            raise self.unsupported(problem)
        # Only here: a Python without SQLite can do all but this.
        from sage.kernel.runtime.checkpoint.call_journal import CallJournal
        from sage.kernel.runtime.checkpoint.store import CheckpointStore

        self._store = CheckpointStore(local_path(folder))
        try:
            if CallJournal.path_in(self._store.folder).exists():
                self.kept_calls()
            self._read(operators, services or {}, input_grew)
        except BaseException:
            self.close()
            raise
        self._latest: tuple[int, States] = (self.position, self.states)
        self._moved = threading.Event()  # there is a mark to be committed
        self._ending = threading.Event()

    def _read(
        self, operators: Sequence[Operator], services: Identities, input_grew: InputGrew
    ) -> None:
        saved, pipeline = self._store.read(), describe(operators)
        now = InputCheck(self.folder, operators)
        begun = saved and (saved["position"] or saved["complete"] or self._calls)
        if not begun:  # nothing is done yet
            saved = {"version": _VERSION, "pipeline": pipeline, "position": 0}
            saved |= {"states": {}, "complete": False}
            self._fresh = True
            saved |= {"input": now.fingerprint(), "services": {}}
            self._store.write(**saved)
        if saved["version"] != _VERSION:
            reason = f"it has version {saved['version']}, this SAGE reads {_VERSION}"
            raise CheckpointError(self.folder, reason, hint="take another")
        self.position = saved["position"]
        self.states: States = saved["states"]
        self.complete = saved["complete"]
        self._services: dict[str, dict[str, Any]] = saved["services"]
        self._check_pipeline(difference(saved["pipeline"], pipeline))
        self.check_services(services)
        before, done = saved["input"], self.position
        if now.has_changed(before, done=done, complete=self.complete, grew=input_grew):
            self.complete = False
            self._store.write(input=now.fingerprint(), complete=False)
        if not self.complete:
            self._check_pipeline(lost(operators, self.states))
        missing = output_problem(operators) if self.complete else None
        if missing is not None:
            raise CheckpointError(
                self.folder,
                f"it says that all is done, but {missing}",
                hint="bring that back, or make it anew with another folder or by deleting this one",
            )

    def _check_pipeline(self, changed: str) -> None:
        if changed:
            raise CheckpointMismatchError(
                self.folder,
                f"another pipeline began it: {changed}",
                "Submit the pipeline that began it",
            )

    def check_services(self, services: Identities) -> None:
        """Remember what the services say of themselves; raise if it is not what they said before.

        Once before they are opened, and once after, when they know the rest.
        """
        now = plain(services)
        changed = services_difference(self._services, now)
        if changed:
            raise ServiceChangedError(
                self.folder,
                f"{changed}, as when it was begun",
                "Configure the service as it was",
            )
        known = merged(self._services, now)
        if known != self._services:
            self._services = known
            self._store.write(services=known)

    def kept_calls(self) -> CallJournal:
        """Return what keeps the results of service calls of records that are not done."""
        if self._calls is None:
            from sage.kernel.runtime.checkpoint.call_journal import CallJournal

            self._calls = CallJournal(self._store.folder, locks=self._store.has_locks)
        return self._calls

    def unsupported(self, problem: str) -> UnsupportedPipelineError:
        """Return the error that says why this pipeline cannot have a checkpoint."""
        return UnsupportedPipelineError(
            self.folder,
            f"{problem}, so that it could not be continued where it stopped. A pipeline with a "
            f"checkpoint is one source, maps, ordered asynchronous maps, filters and flatmaps at "
            f"parallelism 1, and one sink",
            hint="submit this one without checkpoint=",
        )

    def skip_done(self, source: Any) -> None:
        """Pass over the records of a source that are done, by its own ``skip(n)`` if it has one."""
        done = self.position
        if done and hasattr(source, "skip"):
            source.skip(done)
            return
        none_ends = not getattr(source, "none_is_record", False)
        for index in range(done):
            record = source.execute()
            if isinstance(record, StopSignal) or (record is None and none_ends):
                raise CheckpointError(
                    self.folder,
                    f"{done} records are done, and the source now has only {index}",
                    hint="restore the source, or begin anew with another folder",
                )

    def counting(self, mark: Mark) -> Callable[[], None]:
        """Return what the source calls after each of its records: it counts and marks them."""
        position = self.position

        def mark_done() -> None:
            nonlocal position
            position += 1
            mark(position, {})

        return mark_done

    def reached_the_end(self, position: int, states: States) -> None:
        """Take a mark at the end of the chain, to be committed soon."""
        self._latest = (position, states)
        if not self._moved.is_set():
            self._moved.set()

    def begin(self, sinks: DurableSinks, fail: Callable[[BaseException], None]) -> None:
        """Bring the sinks to where they were; from now on commit, and tell ``fail`` what fails."""
        sinks.begin(self.states)
        if self._calls is not None:
            self._calls.forget_before(self.position)
            self._calls.on_failure = fail
        self._committing = threading.Thread(
            target=self._keep_committing, args=(sinks, fail), name="sage-checkpoint", daemon=True
        )
        self._committing.start()

    def _keep_committing(self, sinks: DurableSinks, fail: Callable[[BaseException], None]) -> None:
        try:
            while self._moved.wait():
                self._moved.clear()  # before a look at _ending, which stop() sets first
                if self._ending.wait(_INTERVAL):
                    break
                self._commit(sinks)
        except BaseException as error:  # noqa: BLE001 - the run ends with it
            fail(error)

    def stop(self) -> None:
        """Begin no further commit, and wait for the end of one that is under way."""
        self._ending.set()
        self._moved.set()
        self._committing.join()

    def _commit(self, sinks: DurableSinks) -> None:
        position, states = self._latest
        if position == self.position:
            return
        try:
            sinks.sync()
            self._store.write(position=position, states=states)
            if self._calls is not None:
                self._calls.forget_before(position)
        except BaseException as error:
            annotate(error, f"while record {position - 1} and those before it were committed")
            raise
        self.position, self.states = position, states

    def say_what_is_kept(self, interrupt: BaseException) -> None:
        """Add to a Ctrl-C, or to the cancelling of an await, that the run can go on."""
        if self.position or self._calls_stay:
            annotate(
                interrupt,
                f"what is done is kept in the checkpoint {self.folder!r}: run the same program "
                f"again, and it goes on from there",
            )

    def begin_anew(self) -> None:
        """Have the next run begin at the first record, if this one did: nothing came of it."""
        self._nothing_came = self._fresh

    def end(self, sinks: DurableSinks, *, whole: bool) -> None:
        """Commit what is through; if that is all of the source, publish the outputs."""
        try:
            if self._nothing_came:
                self.position = 0
                return
            self._commit(sinks)
            if whole:
                sinks.finish()
                self._store.write(complete=True)
                self.complete = True
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the checkpoint, and remove it if nothing is done; may be called repeatedly."""
        calls, self._calls = self._calls, None
        if calls is not None:
            self._calls_stay = calls.close(forget=self.complete or self._nothing_came)
        if self._fresh and not (self.position or self.complete or self._calls_stay):
            self._store.discard()
        else:
            self._store.close()
