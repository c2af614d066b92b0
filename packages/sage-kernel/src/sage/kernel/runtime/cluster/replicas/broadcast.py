"""Broadcast: calls to every replica, and the changes that all of them have to have."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from sage.kernel.runtime.cluster.errors import ReplicaDiedError
from sage.kernel.runtime.cluster.mail.mailbox import Mailbox
from sage.kernel.runtime.cluster.replicas.call_desk import CallDesk, Sends, send
from sage.kernel.runtime.cluster.replicas.replica import Replica

Restart = Callable[[Replica, Mailbox, BaseException], None]


class Broadcast:
    """Calls every replica.

    A change is made by all of them or by none: where one refuses it, those that made it begin anew
    without it. A replica that begins later makes all changes first; while one is under way it waits
    for the end of that.

    Args:
        changed: the lock of the replicas and the desk.
        replicas: all that there are.
        desk: gives calls to them.
        restart: ends a replica's process, so that another one begins.
    """

    def __init__(
        self,
        changed: threading.Condition,
        replicas: Sequence[Replica],
        desk: CallDesk,
        restart: Restart,
    ) -> None:
        self._changed = changed
        self._replicas = replicas
        self._desk = desk
        self._restart = restart
        self._one_change = threading.Lock()
        self._changes: list[bytes] = []
        self._under_way = False
        self._held: list[Callable[[], None]] = []  # until the change that is under way is decided

    def ask(self, data: bytes) -> list[Any]:
        """Make a call on each replica that is ready; return the results, or raise the first error.

        One that dies of it, or meanwhile, is left out; if all do, that is the error.
        """
        return self._results(self._call(data))

    def change(self, data: bytes) -> list[Any]:
        """Make a call that changes each replica; where it raises, all are as they were."""
        with self._one_change:
            with self._changed:
                self._under_way = True
            made = False
            try:
                calls = self._call(data)
                try:
                    results = self._results(calls)
                except BaseException:
                    self._undo(calls)
                    raise
                made = True
                return results
            finally:
                with self._changed:
                    self._under_way = False
                    if made:
                        self._changes.append(data)
                    held, self._held = self._held, []
                for go_on in held:
                    go_on()

    def catch_up(
        self, replica: Replica, mailbox: Mailbox, ready: Callable[[], Sends], had: int = 0
    ) -> None:
        """Make the changes that a new process has not had; then call ``ready``, under the lock."""
        call = None
        with self._changed:
            if replica.mailbox is not mailbox:
                return
            if had < len(self._changes):
                call, sends = self._desk.pin(replica, self._changes[had])
            elif self._under_way:
                self._held.append(partial(self.catch_up, replica, mailbox, ready, had))
                return
            else:
                sends = ready()

        def made(done: Future[Any]) -> None:
            error = None if done.cancelled() else done.exception()
            if error is not None:
                self._restart(replica, mailbox, error)
            else:
                self.catch_up(replica, mailbox, ready, had + 1)

        if call is not None:
            call.future.add_done_callback(made)
        send(sends)

    def _call(self, data: bytes) -> list[tuple[Replica, Mailbox, Future[Any]]]:
        calls = []
        sends: Sends = []
        with self._changed:
            for replica in self._replicas:
                if replica.state == "ready" and replica.mailbox is not None:
                    call, sent = self._desk.pin(replica, data)
                    calls.append((replica, replica.mailbox, call.future))
                    sends += sent
        send(sends)
        return calls

    def _results(self, calls: Sequence[tuple[Replica, Mailbox, Future[Any]]]) -> list[Any]:
        errors = [future.exception() for _, _, future in calls]
        refused = [
            error
            for error in errors
            if error is not None and not isinstance(error, ReplicaDiedError)
        ]
        if refused:
            raise refused[0]
        results = [future.result() for _, _, future in calls if future.exception() is None]
        if not results:
            raise next(iter(errors), None) or self._desk.death("none is ready at the moment")
        return results

    def _undo(self, calls: Sequence[tuple[Replica, Mailbox, Future[Any]]]) -> None:
        undone = RuntimeError("another replica refused a change that this one had made")
        for replica, mailbox, future in calls:
            if future.done() and future.exception() is None:
                self._restart(replica, mailbox, undone)
