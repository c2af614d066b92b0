"""RunThreads: the threads of one run, and the moment when the last of them has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.failed_record import FailedRecord


class RunThreads:
    """Threads are added, then all started.

    ``fail`` is called with an error that a thread raises; ``all_ended`` once, by the last thread.
    """

    def __init__(
        self,
        pipeline: str,
        *,
        fail: Callable[[FailedRecord], None],
        all_ended: Callable[[], None],
    ) -> None:
        self._pipeline = pipeline
        self._fail = fail
        self._all_ended = all_ended
        self._threads: list[threading.Thread] = []
        self._live: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def add(self, operator: str, body: Callable[[], None]) -> threading.Thread:
        """Add a thread for an operator; PipelineCancelledError ends its body silently."""

        def run() -> None:
            try:
                body()
            except PipelineCancelledError:
                pass
            except BaseException as error:  # noqa: BLE001 - the thread's last frame
                self._fail(FailedRecord(operator=operator, record=None, error=error))
            finally:
                self._ended(thread)

        # A daemon: a function that never returns must not keep the interpreter from ending.
        name = f"sage-{self._pipeline}-{operator}"
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        return thread

    def start(self) -> None:
        """Start all; if this raises, the caller calls ``give_up_unstarted``."""
        self._live = set(self._threads)
        for thread in self._threads:
            thread.start()

    def give_up_unstarted(self) -> None:
        """Count the threads that could not be started as ended; those that run end themselves."""
        for thread in set(self._threads).difference(threading.enumerate()):
            self._ended(thread)

    def __bool__(self) -> bool:
        return bool(self._threads)

    def __contains__(self, thread: threading.Thread) -> bool:
        return thread in self._threads

    @property
    def alive(self) -> list[str]:
        """The names of the threads that run."""
        return [thread.name for thread in self._threads if thread.is_alive()]

    def _ended(self, thread: threading.Thread) -> None:
        with self._lock:
            if thread not in self._live:
                return
            self._live.remove(thread)
            last = not self._live
        if last:
            self._all_ended()
