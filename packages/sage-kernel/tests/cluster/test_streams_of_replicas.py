"""Answers of replicas that come in pieces, on a cluster of threads that fail as they are told."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves it out

from cluster_processes import until

from sage.common.service import BaseService, Replication, Streaming
from sage.kernel.runtime.cluster.errors import ReplicaDiedError, StreamBrokenError
from sage.kernel.runtime.cluster.fake_cluster import FakeCluster, FakeRemote, Fault
from sage.kernel.runtime.cluster.placement import Placement
from sage.kernel.runtime.cluster.replicas.replicated_service import (
    ReplicaSettings,
    ReplicatedService,
)
from sage.kernel.runtime.cluster.replicas.supervision import Supervision
from sage.kernel.runtime.service import ServiceFactory, ServiceManager


class Pieces:
    """What a caller gets: the pieces as they come, and the Future of the whole."""

    def __init__(self, start: Callable[[Callable[[Any], None]], Future[Any]]) -> None:
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.future = start(self.queue.put)

    def take(self, count: int) -> list[Any]:
        return [self.queue.get(timeout=10) for _ in range(count)]


class Counter(BaseService):
    """Counts to a number; where there is a ``limit``, as far as that until it is told to go on."""

    max_concurrency = None

    @classmethod
    def replication(cls) -> Replication:
        streams = {"count": Streaming(start="_start_count", reader=Pieces)}
        return Replication(replayable=True, streams=streams)

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.cancelled = threading.Event()

    def count(self, number: int, limit: int | None = None) -> Any:
        raise AssertionError("it is for callers in its own process")

    def _start_count(
        self, on_piece: Callable[[int], None], number: int, limit: int | None = None
    ) -> Future[int]:
        if number < 0:
            raise ValueError(f"cannot count to {number}")
        future: Future[int] = Future()
        future.add_done_callback(lambda done: done.cancelled() and self.cancelled.set())

        def run() -> None:
            for each in range(number):
                if each == limit:
                    self.go_on.wait(10)
                on_piece(each)
            if future.set_running_or_notify_cancel():
                future.set_result(number)

        threading.Thread(target=run, daemon=True).start()
        return future


@contextmanager
def counting(cluster: FakeCluster, count: int = 1) -> Iterator[ServiceManager]:
    manager = ServiceManager()
    supervision = Supervision(delays=(0.0,), most_deaths=100)
    settings = ReplicaSettings(least=count, most=count, supervision=supervision)
    factory = ServiceFactory(service_class=Counter)
    room = (cluster, Placement(cluster.nodes()))
    arguments = (factory, Counter.replication(), settings, lambda *_: room)
    manager.register("counter", ServiceFactory(service_class=ReplicatedService, args=arguments))
    try:
        manager.start()
        yield manager
    finally:
        manager.close()
        cluster.close()


def service_of(remote: FakeRemote) -> Counter:
    found: Counter = remote.hosted._running.service
    return found


def test_pieces_come_in_order_while_the_others_are_still_made() -> None:
    cluster = FakeCluster()
    with counting(cluster) as manager:
        stream = manager.call_service("counter", 500, 3, method="count")
        assert stream.take(3) == [0, 1, 2]
        assert not stream.future.done()
        service_of(cluster.remotes[0]).go_on.set()
        assert stream.future.result(10) == 500
        assert stream.take(497) == list(range(3, 500))
        assert stream.queue.empty()


def test_errors_of_its_start_are_the_stream_s() -> None:
    with counting(FakeCluster()) as manager:
        stream = manager.call_service("counter", -1, method="count")
        with pytest.raises(ValueError, match="cannot count to -1"):
            stream.future.result(10)


def test_cancelling_ends_it_there() -> None:
    cluster = FakeCluster()
    with counting(cluster) as manager:
        stream = manager.call_service("counter", 5, 2, method="count")
        stream.take(2)
        assert stream.future.cancel()
        service = service_of(cluster.remotes[0])
        assert service.cancelled.wait(10)
        service.go_on.set()
        until(lambda: not cluster.remotes[0].hosted._calls)
        assert manager.call_service("counter", 3, method="count").take(3) == [0, 1, 2]
        assert stream.queue.empty()  # what comes after the cancel is not heard


def test_a_death_before_the_first_piece_is_not_noticed() -> None:
    cluster = FakeCluster()
    with counting(cluster) as manager:
        stream = manager.call_service("counter", 3, 0, method="count")
        until(lambda: cluster.remotes[0].hosted._calls)
        cluster.remotes[0].die()
        until(lambda: len(cluster.remotes) == 2 and cluster.remotes[1].hosted._calls)
        service_of(cluster.remotes[1]).go_on.set()
        assert stream.future.result(10) == 3
        assert stream.take(3) == [0, 1, 2]


def test_a_death_between_two_pieces_says_so() -> None:
    cluster = FakeCluster()
    with counting(cluster) as manager:
        stream = manager.call_service("counter", 5, 2, method="count")
        assert stream.take(2) == [0, 1]
        cluster.remotes[0].die("the machine is gone")
        with pytest.raises(StreamBrokenError, match=r"2 had come .the machine is gone") as caught:
            stream.future.result(10)
        assert isinstance(caught.value, ReplicaDiedError)
        assert caught.value.pieces == 2
        assert caught.value.retryable
        assert manager.call_service("counter", 2, method="count").future.result(10) == 2
        assert stream.queue.empty()


def test_messages_that_are_lost_lose_and_double_no_piece() -> None:
    turn = iter(range(10**9))

    def script(_remote: FakeRemote, method: str) -> Fault:
        if method not in ("take", "submit"):
            return "none"
        return ("none", "answer lost", "none", "lost", "none")[next(turn) % 5]  # type: ignore[return-value]

    with counting(FakeCluster(script), count=2) as manager:
        streams = [manager.call_service("counter", 40, method="count") for _ in range(10)]
        for stream in streams:
            assert stream.future.result(10) == 40
            assert stream.take(40) == list(range(40))
            assert stream.queue.empty()
