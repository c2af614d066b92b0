"""Supervision: when a replica is replaced, and when it is given up."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sage.kernel.runtime.cluster.errors import RemoteDiedError
from sage.kernel.runtime.cluster.mail.mailbox import Mailbox
from sage.kernel.runtime.cluster.replicas.replica import Replica

_WHILE_STARTING = 10  # times the health_timeout


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """When a replica is replaced.

    Args:
        health_timeout: seconds without a word of it after which it is ended, and replaced. While it
            starts they are ten times as many. One that was never heard of is asked for again then,
            and later each time: it may have no machine yet, which is no death.
        steps_timeout: the same without progress, where its service counts that (``steps_done``) and
            has calls; None does not look.
        delays: seconds before it begins again after so many deaths in a row without a call finished
            in between; the last one is for all further ones.
        most_deaths: after so many of them it is given up.
        close_timeout: seconds that a service has to close, before its process is ended.
        poison_from: a call that was in so many deaths, the last one of them alone, is given up.
    """

    health_timeout: float = 30.0
    steps_timeout: float | None = None
    delays: Sequence[float] = (0.0, 1.0, 5.0)
    most_deaths: int = 6
    close_timeout: float = 5.0
    poison_from: int = 3

    @property
    def heartbeat(self) -> float:
        """Seconds after which a replica that has nothing to say says so."""
        return min(2.0, self.health_timeout / 4)

    @property
    def between_looks(self) -> float:
        """Seconds from one look at the replicas to the next."""
        return min(2.0, self.health_timeout / 8)

    def is_over(self, replica: Replica) -> bool:
        """Whether a replica that died is given up."""
        return replica.fruitless_deaths >= self.most_deaths

    def delay(self, replica: Replica) -> float:
        """Return after how many seconds a replica that died begins again."""
        return self.delays[min(replica.fruitless_deaths, len(self.delays)) - 1]

    def longest_silence(self, replica: Replica) -> float:
        """Return after how many seconds without a word something is done about a replica."""
        # What loads a model may leave no other thread its turn for a while.
        starting = 1 if replica.state == "ready" else _WHILE_STARTING
        return self.health_timeout * starting * 2.0**replica.unheard


class HealthLook:
    """Looks for replicas that are there and do not answer, or answer and do nothing.

    Args:
        supervision: how long that may last.
        replicas: all that there are.
    """

    def __init__(self, supervision: Supervision, replicas: Sequence[Replica]) -> None:
        self._limits = supervision
        self._replicas = replicas
        self._looked = time.monotonic()

    def look(self) -> Iterator[tuple[Replica, Mailbox, RemoteDiedError | None]]:
        """Return those to replace, and why; without a reason those that were never heard of.

        It is called every ``between_looks``.
        """
        now = time.monotonic()
        # If this process was stopped, nobody could be heard.
        asleep = now - self._looked > self._limits.health_timeout / 2
        self._looked = now
        for replica in self._replicas:
            mailbox = replica.mailbox
            if mailbox is None:
                continue
            if mailbox.heard is None:
                if now - mailbox.begun > self._limits.longest_silence(replica):
                    yield replica, mailbox, None
            elif asleep:
                mailbox.heard = now
                replica.steps = (replica.steps[0], now)
            elif problem := self._problem(replica, now - mailbox.heard, now - replica.steps[1]):
                yield replica, mailbox, RemoteDiedError(problem)

    def _problem(self, replica: Replica, silent: float, still: float) -> str:
        limits = self._limits
        if silent > (longest := limits.longest_silence(replica)):
            return f"it did not answer for {longest:g} s"
        counts = replica.in_flight and replica.steps[0] is not None
        if limits.steps_timeout is not None and counts and still > limits.steps_timeout:
            return f"its work stood still for {limits.steps_timeout:g} s"
        return ""
