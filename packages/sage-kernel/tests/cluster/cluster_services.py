"""Services and functions for the processes of a cluster, which import this module."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from sage.common.core.background import in_background
from sage.common.core.functions import AsyncMapFunction, MapFunction
from sage.common.service import BaseService, Replication, Streaming


class Doubler(BaseService):
    """Doubles numbers."""

    max_concurrency = None
    capacity = 16

    @classmethod
    def replication(cls, **_: Any) -> Replication:
        return Replication(replayable=True)

    def __init__(self, *, fault: str = "") -> None:
        self.fault = fault

    def setup(self) -> None:
        if self.fault == "setup":
            raise LookupError("no weights here")

    def double(self, number: int) -> int:
        return 2 * number

    def process_id(self) -> int:
        return os.getpid()

    def environment(self, name: str) -> str | None:
        return os.environ.get(name)

    def stop_dead(self, seconds: float) -> int:
        """Stand still as a whole, as under SIGSTOP, once."""
        time.sleep(seconds)
        return os.getpid()


class Slow(Doubler):
    """Takes a while for each."""

    seconds = 0.01

    def double(self, number: int) -> int:
        time.sleep(self.seconds)
        return 2 * number


class Pieces:
    """What the caller of a stream gets."""

    def __init__(self, start: Callable[[Callable[[Any], None]], Future[Any]]) -> None:
        self.queue: SimpleQueue[Any] = SimpleQueue()
        self.future = start(self.queue.put)


class Counter(Doubler):
    """Says number after number, and stops after the one that it is told."""

    @classmethod
    def replication(cls, **_: Any) -> Replication:
        streams = {"count": Streaming(start="_start_count", reader=Pieces)}
        return Replication(replayable=True, streams=streams)

    def count(self, number: int, last: int | None = None) -> Any:
        return Pieces(lambda on_piece: self._start_count(on_piece, number, last))

    def _start_count(
        self, on_piece: Callable[[Any], None], number: int, last: int | None = None
    ) -> Future[int]:
        return in_background(self._count, on_piece, number, last)

    def _count(self, on_piece: Callable[[Any], None], number: int, last: int | None) -> int:
        for each in range(number):
            on_piece(each)
            if each == last:
                time.sleep(60)  # until its process is killed
        return number


class Slower(Slow):
    """Takes a longer while."""

    seconds = 0.06


class Slowest(Slow):
    """Takes so long that a machine can die and be replaced many times in a run."""

    seconds = 0.3


class Parent(Slow):
    """Has a process of its own, as an engine has."""

    def setup(self) -> None:
        self.child = subprocess.Popen(["sleep", "1000"])


class TwoGPUs(Doubler):
    """Takes two GPUs for each replica."""

    @classmethod
    def replication(cls, **_: Any) -> Replication:
        return Replication(gpus=2)


class Ask(AsyncMapFunction):
    """Has a number doubled."""

    max_in_flight = 64

    def submit(self, record: int) -> Future[Any]:
        return self.call_service_async("doubler", record, method="double")


class Kill(MapFunction):
    """Ends its own process at one number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def execute(self, record: int) -> int:
        if record == self.number:
            os._exit(7)
        return record + 1


class KillOnce(MapFunction):
    """Ends its own process at one number, the first time that it comes."""

    def __init__(self, number: int, seen: str) -> None:
        self.number = number
        self.seen = Path(seen)

    def execute(self, record: int) -> int:
        if record == self.number and not self.seen.exists():
            self.seen.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return record


def add_one(number: int) -> int:
    return number + 1


def slow_double(number: int) -> int:
    time.sleep(0.001)
    return 2 * number


def slowest_double(number: int) -> int:
    """Double it after so long that a machine can die and be replaced many times in a run."""
    time.sleep(0.05)
    return 2 * number


def slower_double(number: int) -> int:
    time.sleep(0.004)
    return 2 * number


def is_even(number: int) -> bool:
    return number % 2 == 0


def twice(number: int) -> list[int]:
    return [number, -number]


def refuse_sevens(number: int) -> int:
    if number % 7 == 0:
        error = ValueError("a seven", number)
        error.add_note("as ever")
        raise error
    return number


def lock_a_three(number: int) -> Any:
    return threading.Lock() if number == 3 else number  # nothing can send a lock
