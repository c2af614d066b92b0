"""CallTimeouts: ends asynchronous calls that last too long, all from one thread."""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from sage.kernel.runtime.alarms import Alarms


class _Limited:
    """A call and the Future that stands for it, until one of them is done."""

    __slots__ = ("call", "future", "late")

    def __init__(self, call: Future[Any], late: Exception) -> None:
        self.call: Future[Any] | None = call
        self.late = late
        self.future: Future[Any] = Future()
        self.future.add_done_callback(self._pass_back)
        call.add_done_callback(self._pass_on)

    def expire(self) -> None:
        """Raise ``late`` from the Future, unless the call was in time, and cancel the call."""
        call = self.call
        if call is not None:
            with suppress(InvalidStateError):  # in time after all
                self.future.set_exception(self.late)
            call.cancel()

    def _pass_on(self, call: Future[Any]) -> None:
        self.call = None  # the call's result must not be kept until its timeout
        with suppress(InvalidStateError):  # too late, or cancelled
            if call.cancelled():
                self.future.cancel()
            elif (error := call.exception()) is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(call.result())

    def _pass_back(self, future: Future[Any]) -> None:
        call = self.call
        if future.cancelled():
            future.set_running_or_notify_cancel()  # wakes concurrent.futures.wait() too
            if call is not None:
                call.cancel()


class CallTimeouts:
    """One daemon thread, started by the first call, ends all calls that are late."""

    def __init__(self) -> None:
        self._alarms = Alarms("sage-call-timeouts")

    def limit(self, call: Future[Any], timeout: float, late: Exception) -> Future[Any]:
        """Return a Future with the call's result, or ``late`` as its error after so many seconds.

        The call is cancelled then; it is also cancelled if the Future is.
        """
        limited = _Limited(call, late)
        self._alarms.after(timeout, limited.expire)
        return limited.future

    def close(self) -> None:
        """End the thread; calls in flight have no timeout from then on."""
        self._alarms.close()
