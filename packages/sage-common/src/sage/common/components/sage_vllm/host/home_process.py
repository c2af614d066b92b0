"""HomeProcess: the process that an object was made in, as opposed to a fork of it."""

from __future__ import annotations

import os

from sage.common.service import ServiceClosedError


class HomeProcess:
    """Remembers the process that made it. A fork has the objects, but none of the threads."""

    def __init__(self) -> None:
        self._id = os.getpid()

    def is_this(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self._id

    def check(self, service: str) -> None:
        """Raise ServiceClosedError in a fork, where a call would never be answered."""
        if not self.is_this():
            why = f"it was opened in process {self._id}, and this is a fork without its threads"
            raise ServiceClosedError(
                service, f"{why}; use it there, or have a process started by spawn open its own"
            )
