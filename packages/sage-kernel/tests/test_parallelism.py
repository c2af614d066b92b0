from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from sage.common.core.functions import AsyncMapFunction, MapFunction
from sage.kernel.api import LocalEnvironment

pytestmark = pytest.mark.usefixtures("each_environment")


class Tag(MapFunction):
    """Puts the replica that did the work beside each record."""

    def execute(self, record: Any) -> tuple[int, int, Any]:
        return id(self), threading.get_ident(), record


class Meet(MapFunction):
    """Returns only once all replicas are at work at the same time."""

    def __init__(self, barrier: threading.Barrier) -> None:
        self.barrier = barrier

    def execute(self, record: int) -> int:
        self.barrier.wait(timeout=10)
        return record


class AsyncTag(AsyncMapFunction):
    def submit(self, record: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result((id(self), record))
        return future


@pytest.mark.parametrize("each_environment", ["local"], indirect=True)  # workers share none
def test_replicas_of_a_sync_map_work_at_the_same_time() -> None:
    env = LocalEnvironment("parallel")
    out: list[int] = []
    env.from_collection(range(40)).map(Meet, threading.Barrier(4), parallelism=4).sink(out.append)
    env.submit()
    assert sorted(out) == list(range(40))


def test_each_replica_is_an_instance_used_by_one_thread() -> None:
    env = LocalEnvironment("parallel")
    out: list[tuple[int, int, int]] = []
    env.from_collection(range(2000)).map(Tag, parallelism=3).sink(out.append)
    env.submit()
    assert sorted(record for _, _, record in out) == list(range(2000))
    threads: dict[int, set[int]] = {}
    for replica, thread, _ in out:
        threads.setdefault(replica, set()).add(thread)
    assert all(len(used) == 1 for used in threads.values())


def test_records_of_one_key_reach_one_replica_in_order() -> None:
    env = LocalEnvironment("keyed")
    out: list[tuple[int, int, int]] = []
    stream = env.from_collection(range(5000)).keyby(lambda x: f"key {x % 17}")
    stream.map(Tag, parallelism=4).sink(out.append)
    env.submit()
    assert len(out) == 5000
    assert len({replica for replica, _, _ in out}) > 1
    for key in range(17):
        of_key = [(replica, record) for replica, _, record in out if record % 17 == key]
        assert len({replica for replica, _ in of_key}) == 1
        assert [record for _, record in of_key] == list(range(key, 5000, 17))


def test_keyby_of_several_replicas_still_sends_a_key_to_one_replica() -> None:
    env = LocalEnvironment("keyed")
    out: list[tuple[int, int, int]] = []
    stream = env.from_collection(range(2000)).keyby(lambda x: x % 5, parallelism=2)
    stream.map(Tag, parallelism=3).sink(out.append)
    env.submit()
    assert sorted(record for _, _, record in out) == list(range(2000))
    for key in range(5):
        assert len({replica for replica, _, record in out if record % 5 == key}) == 1


def test_two_consumers_of_a_keyed_stream_both_get_records_by_key() -> None:
    env = LocalEnvironment("keyed")
    plain: list[int] = []
    tagged: list[tuple[int, int, int]] = []
    keyed = env.from_collection(range(100)).keyby(lambda x: x % 3)
    keyed.sink(plain.append)
    keyed.map(Tag, parallelism=2).sink(tagged.append)
    env.submit()
    assert plain == list(range(100))
    assert sorted(record for _, _, record in tagged) == list(range(100))


def test_replicas_of_an_async_map_share_the_records() -> None:
    env = LocalEnvironment("async")
    out: list[tuple[int, int]] = []
    env.from_collection(range(1000)).map(AsyncTag, parallelism=3).sink(out.append)
    env.submit()
    assert sorted(record for _, record in out) == list(range(1000))


def test_a_keyed_async_map_keeps_the_order_of_each_key() -> None:
    env = LocalEnvironment("async")
    out: list[tuple[int, int]] = []
    stream = env.from_collection(range(1000)).keyby(lambda x: x % 7)
    stream.map(AsyncTag, parallelism=3).sink(out.append)
    env.submit()
    for key in range(7):
        assert [x for _, x in out if x % 7 == key] == list(range(key, 1000, 7))
