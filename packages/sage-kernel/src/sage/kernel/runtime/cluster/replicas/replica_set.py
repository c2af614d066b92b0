"""ReplicaSet: processes of a cluster that serve together, kept alive, and the calls to them."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

from sage.common.core.errors import SageError
from sage.common.replicas.replay_queue import SUSPECT
from sage.common.service.replication import OnPiece
from sage.kernel.runtime.alarms import Alarms
from sage.kernel.runtime.cluster.cluster import Remote
from sage.kernel.runtime.cluster.errors import RemoteDiedError
from sage.kernel.runtime.cluster.mail.carriage import read_outcome
from sage.kernel.runtime.cluster.mail.mailbox import Mailbox
from sage.kernel.runtime.cluster.mail.messages import Message
from sage.kernel.runtime.cluster.mail.questions import Ask, Questions
from sage.kernel.runtime.cluster.mail.unsendable import call_bytes
from sage.kernel.runtime.cluster.replicas.broadcast import Broadcast
from sage.kernel.runtime.cluster.replicas.call_desk import CallDesk, Sends, send
from sage.kernel.runtime.cluster.replicas.replica import Call, Replica
from sage.kernel.runtime.cluster.replicas.start_up import StartUp
from sage.kernel.runtime.cluster.replicas.supervision import HealthLook, Supervision
from sage.kernel.runtime.metrics.replica_status import ReplicaStatus

logger = logging.getLogger(__name__)


class ReplicaSet:
    """Replicas of one service.

    A call goes to a replica with room, by its prefix and the replicas' loads; while none has room
    it waits here. When a replica dies, its calls are made again on others, if they may be, and it
    begins again. The first answer to a call counts; what a replica says that was replaced is not
    heard.

    Args:
        name: the service's, for errors and logs.
        each: what one of them is, for these too: ``"a replica of service 'doubler'"``.
        start: has a process started, whose object is a HostedService.
        most: how many there are at most.
        takes: what each takes of a machine, for whoever waits for room.
        replayable: whether a call that may have been made can be made again.
        ask: answers what a replica asks of the services here.
        most_in_flight: calls that one replica has at most; None is what its service says.
        supervision: when replicas are replaced.
    """

    def __init__(
        self,
        name: str,
        each: str,
        start: Callable[[], Remote],
        *,
        most: int,
        takes: str,
        replayable: bool,
        ask: Ask,
        most_in_flight: int | None = None,
        supervision: Supervision | None = None,
    ) -> None:
        self._name = name
        self._each = each
        self._start = start
        self._ask = ask
        self._supervision = supervision or Supervision()
        self._alarms = Alarms(f"sage-replicas-{name}")
        self._changed = threading.Condition()  # guards all below; nothing is sent or settled in it
        self._replicas = [Replica(number) for number in range(most)]
        self._desk = CallDesk(
            name,
            each,
            self._replicas,
            replayable=replayable,
            poison_from=self._supervision.poison_from,
            most_in_flight=most_in_flight,
        )
        self._broadcast = Broadcast(self._changed, self._replicas, self._desk, self._died)
        self.identity: Mapping[str, Any] | None = None
        """What results follow from, as the first replica said; see checkpoint_identity()."""
        self._end: SageError | None = None  # why there are no more answers
        self._health = HealthLook(self._supervision, self._replicas)
        self._start_up = StartUp(name, each, self._replicas, self._changed, takes)

    # -- for its owner ----------------------------------------------------------------------------

    def open(self, least: int) -> None:
        """Start all replicas, and return when ``least`` of them are ready; the others join later.

        Raises the first error of a service's setup; then everything is closed.
        """
        for replica in self._replicas:
            self._begin(replica)
        self._alarms.after(self._supervision.between_looks, self._look)
        try:
            self._start_up.wait(least)
        except BaseException:
            self.close(SageError(f"{self._each} was closed, since too few could open"))
            raise

    def call(
        self,
        method: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        prefix: str = "",
        suspect: bool = False,
        on_piece: OnPiece | None = None,
    ) -> Future[Any]:
        """Call a method of the service on one of the replicas; cancelling the Future cancels it.

        Raises what pickling the arguments raises. Calls of the same ``prefix`` meet on the same
        replicas. A ``suspect`` is alone on its replica: it may be what kills it. With ``on_piece``
        the method is one that starts a stream, see Streaming.
        """
        data = call_bytes(method, args, kwargs or {}, of=self._name)
        call = Call(data, prefix, SUSPECT if suspect else 0, on_piece=on_piece)
        # Weak, since who has the call's Future is not to keep what was sent.
        call.future.add_done_callback(partial(self._forget, weakref.ref(call)))
        with self._changed:
            ended = self._end
            sends = [] if ended is not None else self._desk.add(call)
        send(sends)
        if ended is not None:
            call.fail(ended)
        return call.future

    def call_each(self, method: str, args: Any, kwargs: Any, *, change: bool) -> list[Any]:
        """Call a method on each replica that is ready, and return their results; see Broadcast."""
        data = call_bytes(method, args, kwargs, of=self._name)
        return self._broadcast.change(data) if change else self._broadcast.ask(data)

    def status(self) -> list[ReplicaStatus]:
        """Return the replicas as data."""
        with self._changed:
            return [replica.status() for replica in self._replicas]

    @property
    def waiting(self) -> int:
        """Calls that no replica has room for."""
        return self._desk.waiting

    @property
    def capacity(self) -> int | None:
        """Calls in flight that keep all replicas busy, also those that are not there yet."""
        with self._changed:
            return self._desk.capacity

    def close(self, error: SageError) -> None:
        """End all calls with an error, close the services, and end the processes."""
        with self._changed:
            end = self._end = self._end or error
            self._start_up.fail(end)
            calls = self._desk.take_all()
            open_ones = [left for replica in self._replicas if (left := replica.close())]
            self._changed.notify_all()
        self._alarms.close()
        for call in calls:
            call.fail(end)
        for mailbox, questions in open_ones:
            mailbox.close()
            questions.close()
        try:
            closings = [m.remote.call("close") for m, _ in open_ones if m.heard is not None]
            wait(closings, self._supervision.close_timeout)
        finally:
            for mailbox, _ in open_ones:
                mailbox.remote.kill()

    # -- calls ------------------------------------------------------------------------------------

    def _forget(self, known: weakref.ref[Call], done: Future[Any]) -> None:
        if done.cancelled() and (call := known()) is not None:
            with self._changed:
                sends = self._desk.forget(call)
            send(sends)

    def _deliver(
        self, replica: Replica, mailbox: Mailbox, messages: Sequence[Message], report: Any
    ) -> None:
        with self._changed:
            if replica.mailbox is not mailbox or (questions := replica.questions) is None:
                return  # its successor has the calls
            pieces, answered = self._desk.settle(replica, messages)
            replica.note_steps(report.steps)
            sends = self._desk.dispatch() if answered else []
        send(sends)
        questions.take(mailbox, messages)
        for call, piece in pieces:
            call.give(piece)
        for call, outcome in answered:
            call.answer(outcome)

    # -- life and death ---------------------------------------------------------------------------

    def _begin(self, replica: Replica) -> None:
        """Start a replica's next process."""
        questions = Questions(self._ask)
        mailbox = Mailbox(
            self._start(),
            self._alarms,
            heartbeat=self._supervision.heartbeat,
            deliver=partial(self._deliver, replica),
            died=partial(self._died, replica),
        )
        with self._changed:
            if self._end is None:
                replica.begin(mailbox, questions)
        if replica.mailbox is not mailbox:
            mailbox.remote.kill()
            return
        mailbox.open()  # at once: what a service asks in its setup is to be answered
        mailbox.ask("setup", partial(self._set_up, replica, mailbox))

    def _set_up(self, replica: Replica, mailbox: Mailbox, done: Future[Any]) -> None:
        try:
            said: dict[str, Any] = read_outcome(done.result())
        except Exception as error:  # noqa: BLE001 - open() raises it, or it begins again
            with self._changed:
                if replica.mailbox is mailbox and not isinstance(error, RemoteDiedError):
                    self._start_up.fail(error)
            self._died(replica, mailbox, error)
            return
        self._broadcast.catch_up(replica, mailbox, partial(self._is_ready, replica, said))

    def _is_ready(self, replica: Replica, said: dict[str, Any]) -> Sends:
        identity = said.pop("identity")
        self.identity = self.identity or identity
        replica.is_up(**said)
        if replica.deaths:
            logger.warning("%s is up again on %s", self._each, replica.node)
        self._changed.notify_all()
        return self._desk.dispatch()

    def _look(self) -> None:
        for replica, mailbox, problem in self._health.look():
            if problem is None:
                self._ask_again(replica, mailbox)
            else:
                self._died(replica, mailbox, problem)
        self._alarms.after(self._supervision.between_looks, self._look)

    def _ask_again(self, replica: Replica, mailbox: Mailbox) -> None:
        """Ask for a replica's process again, which was never heard of."""
        with self._changed:
            if replica.mailbox is not mailbox or mailbox.heard is not None:
                return
            replica.unheard += 1
            questions = replica.let_go()
        logger.info("%s has not been heard of: asking again", self._each)
        _end(mailbox, questions)
        self._alarms.after(0, partial(self._begin, replica))

    def _died(self, replica: Replica, mailbox: Mailbox, error: BaseException) -> None:
        """Replace a replica's process, and make its calls again."""
        reason = getattr(error, "reason", None) or f"{type(error).__name__}: {error}"
        with self._changed:
            if replica.mailbox is not mailbox:
                return
            failed = self._desk.take_back(replica, reason)
            questions = replica.note_death(reason)
            given_up = self._supervision.is_over(replica)
            replica.state = "given up" if given_up else "resting"
            if all(each.state == "given up" for each in self._replicas):
                self._end = self._desk.death(reason)
                self._end.__cause__ = error
                self._start_up.fail(self._end)
                failed += [(call, self._end) for call in self._desk.take_all()]
            sends = self._desk.dispatch()
            self._changed.notify_all()
        what = "given up" if given_up else "replaced"
        logger.warning("%s is %s: %s", self._each, what, reason)
        _end(mailbox, questions)
        send(sends)
        for call, failure in failed:
            call.fail(failure)
        if not given_up:
            self._alarms.after(self._supervision.delay(replica), partial(self._begin, replica))


def _end(mailbox: Mailbox, questions: Questions) -> None:
    mailbox.close()
    mailbox.remote.kill()
    questions.close()
