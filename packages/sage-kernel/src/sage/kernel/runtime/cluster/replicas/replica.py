"""Replica: one of the processes that serve together, as it looks from here."""

from __future__ import annotations

import time
from concurrent.futures import Future
from copy import copy
from typing import Any

from sage.common.core.futures import settle
from sage.common.service.replication import OnPiece
from sage.kernel.runtime.cluster.mail.carriage import from_bytes, read_outcome
from sage.kernel.runtime.cluster.mail.mailbox import Mailbox
from sage.kernel.runtime.cluster.mail.questions import Questions
from sage.kernel.runtime.metrics.replica_status import ReplicaState, ReplicaStatus


class Call:
    """A call on its way to an answer.

    ``crashes`` counts the replicas that died with it. A ``pinned`` one is for one replica alone.
    Where there is an ``on_piece``, the answer comes in pieces; ``pieces`` counts them.
    """

    __slots__ = (
        "__weakref__", "at", "crashes", "data", "future", "on_piece", "pieces", "pinned", "prefix",
    )  # fmt: skip

    def __init__(
        self,
        data: bytes,
        prefix: str = "",
        crashes: int = 0,
        *,
        pinned: bool = False,
        on_piece: OnPiece | None = None,
    ) -> None:
        self.data = data
        self.prefix = prefix
        self.crashes = crashes
        self.pinned = pinned
        self.on_piece = on_piece
        self.pieces = 0
        self.future: Future[Any] = Future()
        self.at: tuple[Replica, int] | None = None  # where it is worked on, by what number

    def give(self, piece: bytes) -> None:
        """Have its caller get a piece of the answer."""
        assert self.on_piece is not None  # noqa: S101 - for the type checker
        self.on_piece(from_bytes(piece))

    def answer(self, outcome: bytes) -> None:
        """Settle it with the outcome that came; see ``carriage``."""
        if self.future.set_running_or_notify_cancel():
            settle(self.future, read_outcome, outcome)

    def fail(self, error: BaseException) -> None:
        """Settle it with an error of this side."""
        if self.future.set_running_or_notify_cancel():
            own = copy(error)  # each caller adds to its traceback
            own.__cause__ = error.__cause__
            self.future.set_exception(own)


class Replica:
    """A place for one process after the other; the owner guards all of it with a lock."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.state: ReplicaState = "starting"
        self.mailbox: Mailbox | None = None
        self.questions: Questions | None = None
        self.node: str | None = None
        self.process: int | None = None
        self.capacity: int | None = None
        self.in_flight: dict[int, Call] = {}
        self.finished = self.deaths = self.replayed = 0
        self.fruitless_deaths = 0
        """In a row, with no call finished in between."""
        self.unheard = 0
        """Processes in a row that were asked for and never heard of."""
        self.steps: tuple[int | None, float] = (None, 0.0)  # and since when they are that many
        self.reason = ""
        """Why its latest process died."""

    def has_room(self, most: int | None) -> bool:
        """Whether it accepts a call more; ``most`` overrides its capacity."""
        most = self.capacity if most is None else most
        return self.state == "ready" and (most is None or len(self.in_flight) < most)

    def begin_to_work(self) -> None:
        """Note that it has something to do from now on, of which progress can be expected."""
        self.steps = (self.steps[0], time.monotonic())

    def note_steps(self, steps: int | None) -> None:
        """Note its progress; one that has nothing to do makes none."""
        if steps != self.steps[0] or not self.in_flight:
            self.steps = (steps, time.monotonic())

    def begin(self, mailbox: Mailbox, questions: Questions) -> None:
        """Have a process, which is not ready yet."""
        self.state, self.mailbox, self.questions = "starting", mailbox, questions

    def is_up(self, *, node: str, process: int, capacity: int | None) -> None:
        """Note what its process says of itself: it accepts calls."""
        self.state = "ready"
        self.unheard = 0
        self.node, self.process, self.capacity = node, process, capacity
        self.steps = (None, time.monotonic())

    def note_death(self, reason: str) -> Questions:
        """Note that its process is gone, and return what that asked; its calls are the owner's."""
        self.deaths += 1
        self.fruitless_deaths += 1
        self.reason = reason
        return self.let_go()

    def let_go(self) -> Questions:
        """Have a process no more, and return what that asked."""
        questions = self.questions
        assert questions is not None  # noqa: S101 - it had a process
        self.mailbox = self.questions = None
        return questions

    def close(self) -> tuple[Mailbox, Questions] | None:
        """Let go of its process, which its owner ends, and begin no other."""
        mailbox = self.mailbox
        self.state = "closed"
        return None if mailbox is None else (mailbox, self.let_go())

    def status(self) -> ReplicaStatus:
        """Return it as data."""
        return ReplicaStatus(
            number=self.number,
            node=self.node,
            state=self.state,
            process=self.process,
            in_flight=len(self.in_flight),
            finished=self.finished,
            deaths=self.deaths,
            replayed=self.replayed,
        )
