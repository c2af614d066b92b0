"""Ctrl-C in a chat: it stops what is under way, and is not heard elsewhere."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupts:
    """A context manager in which Ctrl-C raises KeyboardInterrupt only where it is `allowed`.

    So it cannot hit the chat between two answers and end it.
    """

    def __init__(self) -> None:
        self._allowed = False

    def __enter__(self) -> "Interrupts":
        self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Raise KeyboardInterrupt at the first Ctrl-C within."""
        self._allowed = True
        try:
            yield
        finally:
            self._allowed = False

    def _on_signal(self, *_: Any) -> None:
        if self._allowed:
            self._allowed = False
            raise KeyboardInterrupt
