"""RunState: the phase of a run and its verdict, the same for all its threads.

The phase only moves forward. The verdict is given once, with one exception:

    opening ──> setting up ──> running ──> concluding ──> over
        no verdict ──> ended         when it is over
        no verdict ──> cancelled     until it concludes: records that are done stay done
        no verdict ──> failed        at any time; the first failure stays
        cancelled  ──> failed        a thread that unwinds may still fail; its error matters more

A run is *decided* when its verdict is known: a caller that waits for it need not wait for a
function that never returns. It is *over* when none of its threads runs any more.
"""

from __future__ import annotations

import threading
from enum import IntEnum
from typing import Literal

from sage.kernel.runtime.annotate import annotate
from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.failed_record import FailedRecord

Verdict = Literal["ended", "failed", "cancelled"]


class Phase(IntEnum):
    """How far a run is."""

    OPENING = 0
    """Its services are being opened; nothing else exists yet."""
    SETTING_UP = 1
    """Its functions are being built and set up."""
    RUNNING = 2
    """Its threads move records."""
    CONCLUDING = 3
    """No record moves any more: outputs are published, functions cleaned up."""
    OVER = 4
    """None of its threads runs any more."""


class RunState:
    """Every transition may be called from any thread; ``name`` is the pipeline's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._seen = False  # the failure was raised to somebody
        self.phase = Phase.OPENING
        self.verdict: Verdict | None = None
        self.failure: FailedRecord | None = None
        self.stopping = False
        """Sources end at their next record. A plain attribute, since it is read for each record."""
        self.cut_short = False
        """A source was stopped before its own end."""
        self.decided = threading.Event()
        self._idle = threading.Event()  # set before the threads start and after they end
        self._idle.set()

    # -- transitions ----------------------------------------------------------------------------

    def set_up(self) -> None:
        """Begin to set up; from now on whoever cancels the run has to wait for its end.

        Raises PipelineCancelledError if it was cancelled before.
        """
        with self._lock:
            self._idle.clear()
            self.phase = Phase.SETTING_UP
        self.raise_if_cancelled()

    def run(self) -> None:
        """Note that all is set up: the threads may start."""
        with self._lock:
            self.phase = Phase.RUNNING

    def stop(self) -> None:
        """Ask the sources to end at their next record."""
        self.stopping = True

    def cancel(self) -> None:
        """Cancel the run, unless it is decided or concludes already."""
        with self._lock:
            if self.verdict is None and self.phase < Phase.CONCLUDING:
                self.verdict = "cancelled"
                self.decided.set()
        self.stopping = True

    def fail(self, failed: FailedRecord, note: str = "") -> bool:
        """Take the first failure and add ``note`` to its error; False if there was one before.

        While the run concludes this does not decide it yet: the rest is concluded first.
        """
        with self._lock:
            if self.failure is not None:
                return False
            if note:
                annotate(failed.error, note)
            self.failure = failed
            self.verdict = "failed"
            if self.phase < Phase.CONCLUDING:
                self.decided.set()
        self.stopping = True
        return True

    def conclude(self) -> None:
        """Note that no record moves any more: it is too late to cancel."""
        with self._lock:
            self.phase = Phase.CONCLUDING

    def end(self) -> None:
        """Note that no thread is left; the run ended well if nothing else was decided."""
        with self._lock:
            self.verdict = self.verdict or "ended"
            self.phase = Phase.OVER
            self.decided.set()
            self._idle.set()

    # -- questions ------------------------------------------------------------------------------

    @property
    def whole(self) -> bool:
        """Whether all records of the sources were processed, so that outputs can be published."""
        return self.verdict in (None, "ended") and not self.cut_short

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until no thread runs; False if one still does after ``timeout`` seconds."""
        return self._idle.wait(timeout)

    def raise_if_cancelled(self) -> None:
        """Raise PipelineCancelledError if the run was cancelled."""
        if self.verdict == "cancelled":
            raise PipelineCancelledError(f"pipeline {self._name!r} was closed before its end")

    def raise_verdict(self) -> None:
        """Raise what stopped the run, with its own traceback; return if nothing did."""
        failed = self.take_unseen_failure() or self.failure
        if failed is not None:
            raise failed.error
        self.raise_if_cancelled()

    def take_unseen_failure(self) -> FailedRecord | None:
        """Return the failure if nobody has seen it yet; the caller shows it now."""
        with self._lock:
            if self.failure is None or self._seen:
                return None
            self._seen = True
            return self.failure
