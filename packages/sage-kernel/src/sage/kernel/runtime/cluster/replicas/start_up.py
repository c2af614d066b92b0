"""StartUp: the wait for the first replicas of a service."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from sage.kernel.runtime.cluster.errors import ReplicaDiedError
from sage.kernel.runtime.cluster.replicas.replica import Replica

logger = logging.getLogger(__name__)

_TELL_EVERY = 30.0  # seconds that it waits without a word


class StartUp:
    """Waits for as many replicas as a run needs to begin, and says why it lasts.

    Args:
        name: the service's, for errors and logs.
        each: what one replica is, for errors.
        replicas: all that there are.
        changed: their lock, which is told of each change of their states.
        takes: what each takes of a machine.
    """

    def __init__(
        self,
        name: str,
        each: str,
        replicas: Sequence[Replica],
        changed: threading.Condition,
        takes: str,
    ) -> None:
        self._name = name
        self._each = each
        self._replicas = replicas
        self._changed = changed
        self._takes = takes
        self._error: Exception | None = None

    def fail(self, error: Exception) -> None:
        """Have the wait end with an error, unless there was one before; under the lock."""
        self._error = self._error or error

    def wait(self, least: int) -> None:
        """Wait for so many replicas; raise why there will never be as many."""
        tell_at = time.monotonic() + _TELL_EVERY
        with self._changed:
            # The system may hand a Ctrl-C to any thread; see LocalExecutor.wait().
            while not self._is_decided(least):
                self._changed.wait(0.5)
                if time.monotonic() >= tell_at:
                    tell_at += _TELL_EVERY
                    self._tell(least)
            error = self._error
            lost = [replica.reason for replica in self._replicas if replica.state == "given up"]
        if error is not None:
            raise error
        if len(lost) > len(self._replicas) - least:
            raise ReplicaDiedError(self._name, lost[0], each=self._each)

    def _is_decided(self, least: int) -> bool:
        """Whether so many are ready, or never will be."""
        states = [replica.state for replica in self._replicas]
        lost = states.count("given up") > len(states) - least
        return self._error is not None or lost or states.count("ready") >= least

    def _tell(self, least: int) -> None:
        boxes = [replica.mailbox for replica in self._replicas]
        homeless = sum(box is not None and box.heard is None for box in boxes)
        if homeless:
            logger.warning(
                "%s: %d of %d processes are ready, %d wait for a machine that has %s free",
                self._name,
                sum(replica.state == "ready" for replica in self._replicas),
                least,
                homeless,
                self._takes,
            )
