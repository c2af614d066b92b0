"""ServerProcess: a server's process and its children, told for certain from any other process."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage.common.run_folder import start_ticks

_CHILDREN_SECONDS = 2.0
"""How long the children of a server that has ended may take to end too."""


class ServerProcess:
    """A process that `sage llm start` started, the first of a session of its own.

    It is held by a descriptor (pidfd), so that no signal can reach another process that was given
    the same id since.
    """

    def __init__(self, pid: int) -> None:
        """Find the process; raises ProcessLookupError where there is none."""
        self._pid = pid
        self._descriptor = os.pidfd_open(pid)
        self.started = start_ticks(pid)

    @classmethod
    def find(cls, record: Mapping[str, Any]) -> ServerProcess | None:
        """Return the process of a record; None if it has ended, whoever has its id now."""
        try:
            found = cls(record["pid"])
        except ProcessLookupError:
            return None
        if found.started is not None and found.started == record["start_ticks"]:
            return found
        os.close(found._descriptor)
        return None

    def has_ended(self, wait: float = 0.0) -> bool:
        """Whether it has ended, or ends within so many seconds."""
        return _has_ended(self._descriptor, wait)

    def end(self, timeout: float) -> bool:
        """End it and its children; returns whether they did so by themselves.

        They are asked to by SIGTERM, and after ``timeout`` seconds killed by SIGKILL.
        """
        children = self._children()
        _send(self._descriptor, signal.SIGTERM if timeout > 0 else signal.SIGKILL)
        gently = timeout > 0 and self.has_ended(timeout)
        if not gently:
            children += self._children()  # those that were started meanwhile
            for descriptor in (self._descriptor, *children):
                _send(descriptor, signal.SIGKILL)
        give_up = time.monotonic() + _CHILDREN_SECONDS
        for descriptor in children:
            if not _has_ended(descriptor, max(0.0, give_up - time.monotonic())):
                _send(descriptor, signal.SIGKILL)
                _has_ended(descriptor, _CHILDREN_SECONDS)
            os.close(descriptor)
        self.has_ended(_CHILDREN_SECONDS)
        return gently

    def _children(self) -> list[int]:
        """Descriptors of the other processes of its session, which has its id while it lives."""
        found = []
        for pid in [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]:
            if pid != self._pid and self._is_of_session(pid):
                try:
                    descriptor = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue
                if self._is_of_session(pid):  # still: what is held is what was looked at
                    found.append(descriptor)
                else:
                    os.close(descriptor)
        if start_ticks(self._pid) != self.started:  # the session's id may be another's by now
            for descriptor in found:
                os.close(descriptor)
            return []
        return found

    def _is_of_session(self, pid: int) -> bool:
        try:
            return os.getsid(pid) == self._pid
        except (ProcessLookupError, PermissionError):
            return False


def _has_ended(descriptor: int, wait: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(wait * 1000))


def _send(descriptor: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return
