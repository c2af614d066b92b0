"""Interrupts: Ctrl-C at a time when what it leaves behind can be dealt with."""

import signal
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While it is open, Ctrl-C, `kill` and the end of the terminal wait until they are allowed.

    Then they raise KeyboardInterrupt, once: the next one waits until it is allowed again. What is
    ignored, as by nohup, stays so.
    """

    def __init__(self) -> None:
        self._allowed = False
        self._asked = False

    def __enter__(self) -> Self:
        self._before = {each: signal.getsignal(each) for each in _SIGNALS}
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
        """Raise KeyboardInterrupt for one that came, or when one comes."""
        self._allowed = True
        if self._asked:
            self._raise()

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        if self._allowed:
            self._raise()

    def _raise(self) -> None:
        self._allowed = self._asked = False
        raise KeyboardInterrupt
