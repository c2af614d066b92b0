"""Interrupts: Ctrl-C at a time when what it leaves behind can be dealt with."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self


class Interrupts:
    """While it is open, Ctrl-C and signals like it raise KeyboardInterrupt only if it is allowed.

    With ``holds`` one that comes at another time waits until it is allowed, without it is not
    heard. One that was raised has to be allowed again. What is ignored, as by nohup, stays so.
    """

    def __init__(self, *signals: signal.Signals, holds: bool) -> None:
        self._signals = signals
        self._holds = holds
        self._allowed = False
        self._asked = False

    def __enter__(self) -> Self:
        self._before = {each: signal.getsignal(each) for each in self._signals}
        for each, handler in self._before.items():
            if handler != signal.SIG_IGN:
                signal.signal(each, self._take)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def allow(self) -> None:
        """Raise KeyboardInterrupt for one that waits, or when one comes."""
        self._allowed = True
        if self._asked:
            self._raise()

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Allow them within."""
        self.allow()
        try:
            yield
        finally:
            self._allowed = False

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = self._holds
        if self._allowed:
            self._raise()

    def _raise(self) -> None:
        self._allowed = self._asked = False
        raise KeyboardInterrupt
