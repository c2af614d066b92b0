"""FakeCluster: machines that are threads of this process, which can be made to fail, for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Literal

from sage.common.core.background import in_background
from sage.kernel.runtime.cluster.cluster import Need, Node
from sage.kernel.runtime.cluster.errors import RemoteDiedError, RemoteUnavailableError
from sage.kernel.runtime.cluster.mail.carriage import from_bytes

Fault = Literal["none", "lost", "answer lost", "dies", "dies after", "hangs"]
"""What becomes of one message: it arrives; it is lost; it arrives and the answer is lost; the
process dies of it, or right after it; the process does nothing more, and is not gone."""

Script = Callable[["FakeRemote", str], Fault]
"""Decides what becomes of each message, by the process and the name of the method."""


class FakeCluster:
    """A Cluster in this process.

    Args:
        script: decides what becomes of each message; without one all is well.
        nodes: the machines that there are said to be.
    """

    def __init__(
        self,
        script: Script = lambda _remote, _method: "none",
        nodes: Sequence[Node] = (Node(name="here", cpus=8),),
    ) -> None:
        self._script = script
        self._nodes = list(nodes)
        self.remotes: list[FakeRemote] = []
        """All processes that were started, those that died included."""
        self.closed = False

    def nodes(self) -> list[Node]:
        """Return the machines; see Cluster."""
        return self._nodes

    def start(self, hosted: bytes, need: Need) -> FakeRemote:
        """Start one; see Cluster."""
        del need
        node = self._nodes[len(self.remotes) % len(self._nodes)].name
        remote = FakeRemote(len(self.remotes), hosted, node, self._script)
        self.remotes.append(remote)
        return remote

    def close(self) -> None:
        """End all; see Cluster."""
        self.closed = True
        for remote in self.remotes:
            remote.kill()


class FakeRemote:
    """A Remote whose process is a few threads of this one; see Remote."""

    def __init__(self, number: int, hosted: bytes, node: str, script: Script) -> None:
        self.number = number
        self.node = node
        self.hosted = from_bytes(hosted)(node)
        self._script = script
        self._open: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self._dead: RemoteDiedError | None = None
        self._hangs = False

    @property
    def dead(self) -> bool:
        """Whether it has ended."""
        return self._dead is not None

    def call(self, method: str, *args: Any) -> Future[Any]:
        """Call a method on a thread of its own; see Remote."""
        future: Future[Any] = Future()
        with self._lock:
            dead = self._dead
            if dead is None:
                self._open.add(future)
        if dead is not None:
            future.set_exception(dead)
        else:
            in_background(self._run, future, method, args)
        return future

    def kill(self) -> None:
        """End it; see Remote."""
        self.die("it was ended")

    def die(self, reason: str = "killed by SIGKILL") -> None:
        """Lose all that it has, without a word of its own."""
        with self._lock:
            if self._dead is not None:
                return
            self._dead = RemoteDiedError(reason)
            lost, self._open = self._open, set()
        for future in lost:
            _settle(future, self._dead)
        in_background(self.hosted.close)  # its threads are of this process

    def hang(self) -> None:
        """Do nothing any more, as under SIGSTOP."""
        self._hangs = True

    def _run(self, future: Future[Any], method: str, args: tuple[Any, ...]) -> None:
        fault: Fault = "hangs" if self._hangs else self._script(self, method)
        if fault == "dies":
            self.die()
        elif fault == "hangs":
            self.hang()
        elif fault == "lost":
            self._close_call(future, RemoteUnavailableError("the message was lost"))
        else:
            try:
                result = getattr(self.hosted, method)(*args)
            except Exception as error:  # noqa: BLE001 - the caller's
                self._close_call(future, error)
                return
            if fault == "dies after":
                self.die()
            elif fault == "answer lost":
                self._close_call(future, RemoteUnavailableError("the answer was lost"))
            elif not self._hangs:
                self._close_call(future, result)

    def _close_call(self, future: Future[Any], outcome: Any) -> None:
        with self._lock:
            self._open.discard(future)
        _settle(future, outcome)


def _settle(future: Future[Any], outcome: Any) -> None:
    with suppress(InvalidStateError):  # it died meanwhile
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
