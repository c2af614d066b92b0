"""CallDesk: which call is where, and where it goes next."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from sage.common.core.errors import SageError
from sage.common.replicas.replay_queue import ReplayQueue
from sage.common.replicas.router import PrefixRouter
from sage.kernel.runtime.cluster.errors import (
    PoisonCallError,
    ReplicaDiedError,
    StreamBrokenError,
)
from sage.kernel.runtime.cluster.mail.mailbox import Mailbox
from sage.kernel.runtime.cluster.mail.messages import Kind, Message
from sage.kernel.runtime.cluster.replicas.replica import Call, Replica

Sends = list[tuple[Mailbox, Message]]
"""What is to be sent, once no lock is held."""


class CallDesk:
    """Gives the calls that wait to replicas with room, and takes back those of one that died.

    Its owner guards it, and what is in the replicas, with a lock.

    Args:
        name: the service's, for errors.
        each: what one replica is, for errors too.
        replicas: all that there are.
        replayable: whether a call that may have been made can be made again.
        poison_from: deaths that a call was in when it is given up, the last one of them alone.
        most_in_flight: calls that one replica has at most; None is what its service says.
    """

    def __init__(
        self,
        name: str,
        each: str,
        replicas: Sequence[Replica],
        *,
        replayable: bool,
        poison_from: int,
        most_in_flight: int | None,
    ) -> None:
        self._name = name
        self._each = each
        self._replicas = replicas
        self._replayable = replayable
        self._most_in_flight = most_in_flight
        self._router = PrefixRouter()
        self._waiting: ReplayQueue[Call] = ReplayQueue(poison_from)
        self._numbers = count(1)

    def death(self, reason: str) -> ReplicaDiedError:
        """Return the error of a call that nobody answers any more, by ``reason``."""
        return ReplicaDiedError(self._name, reason, each=self._each)

    @property
    def waiting(self) -> int:
        """Calls that no replica has room for."""
        return len(self._waiting)

    @property
    def capacity(self) -> int | None:
        """Calls that keep all replicas busy, also those that are not there yet; None: not known."""
        each = self._most_in_flight
        if each is None:
            known = [r.capacity for r in self._replicas if r.capacity is not None]
            each = max(known, default=None)
        return None if each is None else each * len(self._replicas)

    def add(self, call: Call) -> Sends:
        """Take a new call in."""
        self._waiting.append(call)
        return self.dispatch()

    def dispatch(self) -> Sends:
        """Give what waits to replicas that have room."""
        sends: Sends = []
        while self._waiting:
            if self._waiting.head.future.cancelled():
                self._waiting.take(())
                continue
            found = self._next()
            if found is None:
                break
            replica, mailbox, call = found
            sends += self._give(replica, mailbox, call)
        return sends

    def pin(self, replica: Replica, data: bytes) -> tuple[Call, Sends]:
        """Make a call on one replica, with room or without; it ends with that one."""
        call = Call(data, pinned=True)
        mailbox = replica.mailbox
        return call, [] if mailbox is None else self._give(replica, mailbox, call)

    def forget(self, call: Call) -> Sends:
        """Let go of a call that was cancelled; one that waits is passed over in its turn."""
        if call.at is None:
            return []
        replica, number = call.at
        if replica.in_flight.pop(number, None) is None or replica.mailbox is None:
            return []
        return [(replica.mailbox, ("cancel", number, b"")), *self.dispatch()]

    def settle(
        self, replica: Replica, messages: Sequence[Message]
    ) -> tuple[list[tuple[Call, bytes]], list[tuple[Call, bytes]]]:
        """Take out the calls that a replica has answered; those that it no longer has are late.

        Returns pieces of answers, then whole ones: the pieces of an answer come before it.
        """
        pieces: list[tuple[Call, bytes]] = []
        answered: list[tuple[Call, bytes]] = []
        for kind, number, data in messages:
            if kind == "result" and (call := replica.in_flight.pop(number, None)) is not None:
                answered.append((call, data))
            elif kind == "piece" and (call := replica.in_flight.get(number)) is not None:
                call.pieces += 1
                pieces.append((call, data))
        if answered:
            replica.finished += len(answered)
            replica.fruitless_deaths = 0
        return pieces, answered

    def take_back(self, replica: Replica, reason: str) -> list[tuple[Call, SageError]]:
        """Queue the calls of a replica that died again; return those that are not made again."""
        again: dict[int, Call] = {}
        failed: list[tuple[Call, SageError]] = []
        for number, call in replica.in_flight.items():
            call.at = None
            if call.pieces:  # its caller has them, and another answer would not go on from there
                failed.append((call, StreamBrokenError(self._name, reason, call.pieces)))
            elif self._replayable and not call.pinned:
                again[number] = call
            else:
                failed.append((call, self.death(reason)))
        replica.in_flight.clear()
        replica.replayed += len(again)
        poison = self._waiting.put_back(again)
        if poison is not None:
            failed.append((poison, PoisonCallError(self._name, reason)))
        return failed

    def take_all(self) -> list[Call]:
        """Let go of all calls and return them."""
        calls = self._waiting.clear()
        for replica in self._replicas:
            calls += replica.in_flight.values()
            replica.in_flight.clear()
        return calls

    def _give(self, replica: Replica, mailbox: Mailbox, call: Call) -> Sends:
        number = next(self._numbers)
        if not replica.in_flight:
            replica.begin_to_work()
        replica.in_flight[number] = call
        call.at = (replica, number)
        kind: Kind = "call" if call.on_piece is None else "stream"
        return [(mailbox, (kind, number, call.data))]

    def _next(self) -> tuple[Replica, Mailbox, Call] | None:
        loads = [
            len(replica.in_flight) if replica.has_room(self._most_in_flight) else None
            for replica in self._replicas
        ]
        prefix = self._waiting.head.prefix
        while (number := self._router.route(prefix, loads)) is not None:
            replica = self._replicas[number]
            call = self._waiting.take(replica.in_flight.values())
            if call is not None and replica.mailbox is not None:
                return replica, replica.mailbox, call
            loads[number] = None  # a suspect is there, or waits for one where it is alone
        return None


def send(sends: Sends) -> None:
    """Send what a desk gave out, to each mailbox at once."""
    by_mailbox: dict[Mailbox, list[Message]] = {}
    for mailbox, message in sends:
        by_mailbox.setdefault(mailbox, []).append(message)
    for mailbox, messages in by_mailbox.items():
        mailbox.send(messages)
