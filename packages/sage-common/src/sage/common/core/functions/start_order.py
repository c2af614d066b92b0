"""StartOrder: in which order an asynchronous operator starts the records of its window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class StartOrder(ABC):
    """Widens the window of an AsyncMapFunction, and says which of its records to start next.

    Only the order of the starts changes. The number of records that are at work, the order of
    emission, errors, timeouts and retries are those of any AsyncMapFunction. The kernel starts the
    records in sweeps: it sorts those that wait by their keys, up to half a window of them, and
    starts them all before the next sweep begins. What comes meanwhile joins the sweep where its
    key is still ahead and the sweep has room. So no record waits for more than two windows of
    others, whatever the keys are. The window ends at ``window_bytes`` or at ``window_batches``,
    whichever comes first.
    """

    window_batches: int = 32
    """How many times ``max_in_flight`` records the window holds at most.

    It bounds how long an ordered stream waits for a record that many have overtaken, and how many
    answers a kill loses that wait behind it: half a window.
    """

    held_batches: int = 4
    """How many times ``max_in_flight`` records the window holds at most where some are held: done,
    and waiting for an earlier one to be emitted."""

    @property
    def held_bytes(self) -> int:
        """How much the records of a window may take in which some are held.

        So far others are started in the place of these, and a record that lasts long leaves
        nobody idle. With 0 those that are held count as those at work.
        """
        return 0

    @property
    @abstractmethod
    def window_bytes(self) -> int:
        """How much the records of the window may take, from ``place`` until they are emitted.

        Asked for each record. The window has room for ``max_in_flight`` records in any case, so
        0 asks for no more than these.
        """

    @abstractmethod
    def place(self, record: Any) -> tuple[Any, int]:
        """Return a record's key, and how many bytes it takes in the window.

        Called once per record, in input order, on the thread that brings it. Keys are compared
        with each other, and records of equal keys are started in input order. An error that it
        raises stops the pipeline: a record that makes no sense gets any key, and fails in
        ``submit``.
        """

    def metrics(self) -> Mapping[str, Any]:
        """Return what it did so far as plain data; any thread."""
        return {}
