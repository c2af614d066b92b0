"""DurableSink: a sink whose output can be brought back to what it was at a commit."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from sage.common.core.functions import SinkFunction


class DurableSink(SinkFunction):
    """A sink that writes one output, which appears when the last record is in it.

    The kernel calls ``setup``, ``begin``, ``execute`` often, ``finish`` if the run got to the end
    of its sources, ``cleanup``. In a run with a checkpoint it also asks for ``state`` after every
    source record and calls ``sync`` before it commits a state, so that the records between the
    last commit and a kill are neither missing nor twice in the output. The calls come from several
    threads, one at a time.
    """

    @abstractmethod
    def begin(self, state: Any) -> None:
        """Open the output; drop all that was delivered after ``state``, or everything if None."""

    @abstractmethod
    def state(self) -> Any:
        """Return what was delivered so far, as a value that JSON can hold. It must be cheap."""

    @abstractmethod
    def sync(self) -> None:
        """Make what was delivered so far outlive a power cut."""

    @abstractmethod
    def finish(self) -> None:
        """Publish the output. ``begin(last state)`` may follow: after a kill, or to add to it."""

    def output_name(self) -> str | None:
        """Return the output's name, which no other sink of the run may write; None if it has none.

        Asked before ``setup``. Files give their absolute path.
        """
        return None

    def output_problem(self) -> str | None:
        """Return what is wrong with the published output, None if it is there.

        Asked of an instance that is not set up, when a checkpoint says that all is done: an
        output that was deleted since is not done. The answer completes a sentence, such as
        ``"out.jsonl is not there"``.
        """
        return None
