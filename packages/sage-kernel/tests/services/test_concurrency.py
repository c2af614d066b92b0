"""How many calls run at once, and where."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from sage.common.core.functions import MapFunction
from sage.common.service import BaseService
from sage.kernel.api import LocalEnvironment


class Gate(BaseService):
    """Counts the calls that are inside, and keeps each until ``meet`` of them are."""

    def __init__(self, max_concurrency: int | None, meet: int) -> None:
        self.max_concurrency = max_concurrency
        self.barrier = threading.Barrier(meet)
        self.lock = threading.Lock()
        self.inside = self.most = 0

    def process(self, payload: Any) -> Any:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.barrier.wait(timeout=10)
        with self.lock:
            self.inside -= 1
        return payload

    def most_at_once(self) -> int:
        return self.most


@pytest.mark.parametrize("timeout", [None, 20])
@pytest.mark.parametrize(("limit", "meet"), [(1, 1), (3, 3), (None, 48)])
def test_as_many_calls_run_at_once_as_the_service_allows(
    limit: int | None, meet: int, timeout: float | None
) -> None:
    with LocalEnvironment("concurrency") as env, ThreadPoolExecutor(48) as callers:
        env.register_service("gate", Gate, limit, meet)
        proxy = env.service("gate")
        calls = [callers.submit(proxy.process, n, timeout=timeout) for n in range(96)]
        assert [call.result(20) for call in calls] == list(range(96))
        assert proxy.most_at_once() == meet


@pytest.mark.parametrize(("limit", "meet"), [(1, 1), (3, 3), (None, 96)])
def test_asynchronous_calls_keep_to_the_same_limit(limit: int | None, meet: int) -> None:
    with LocalEnvironment("concurrency") as env:
        env.register_service("gate", Gate, limit, meet)
        proxy = env.service("gate")
        calls = [proxy.call_async(n) for n in range(96)]
        assert [call.result(20) for call in calls] == list(range(96))
        assert proxy.most_at_once() == meet


def test_calls_on_the_callers_thread_and_on_others_share_the_limit() -> None:
    with LocalEnvironment("concurrency") as env, ThreadPoolExecutor(4) as callers:
        env.register_service("gate", Gate, 2, 2)
        proxy = env.service("gate")
        calls = [callers.submit(proxy.process, n) for n in range(20)]
        calls += [proxy.call_async(n) for n in range(20)]
        done, _ = wait(calls, timeout=20)
        assert len(done) == 40
        assert proxy.most_at_once() == 2


def test_parallel_operators_are_served_at_the_same_time() -> None:
    class Asks(MapFunction):
        def execute(self, record: int) -> Any:
            return self.call_service("gate", record)

    env = LocalEnvironment("parallel")
    env.register_service("gate", Gate, None, 4)
    out: list[int] = []
    env.from_collection(range(40)).map(Asks, parallelism=4).sink(out.append)
    env.submit()
    assert sorted(out) == list(range(40))


def test_a_plain_call_runs_on_the_callers_thread() -> None:
    class Where(BaseService):
        def process(self, payload: Any) -> int:
            return threading.get_ident()

    with LocalEnvironment("threads") as env:
        env.register_service("where", Where)
        assert env.call_service("where", None) == threading.get_ident()
        assert env.call_service("where", None, timeout=10) != threading.get_ident()


@pytest.mark.parametrize("timeout", [None, 10])
def test_a_service_of_one_call_at_a_time_may_call_itself(timeout: float | None) -> None:
    class Factorial(BaseService):
        def process(self, payload: int) -> int:
            if payload <= 1:
                return 1
            below: int = self.call_service(self.ctx.name, payload - 1)
            return payload * below

    with LocalEnvironment("reentrant") as env:
        env.register_service("factorial", Factorial)
        assert env.call_service("factorial", 6, timeout=timeout) == 720


@pytest.mark.parametrize("limit", [8, None])
def test_threads_are_made_as_they_are_needed_and_used_again(limit: int | None) -> None:
    class Echo(BaseService):
        max_concurrency = limit

        def process(self, payload: Any) -> Any:
            return payload

    with LocalEnvironment("threads") as env:
        env.register_service("echo", Echo)
        proxy = env.service("echo")
        before = set(threading.enumerate())
        used: set[threading.Thread] = set()
        for n in range(100):
            assert proxy.call_async(n).result(10) == n
            used |= set(threading.enumerate()) - before
        # Not one: it answers before it waits for the next call, and may lose its turn in between.
        assert len([each for each in used if each.name.startswith("sage-service-echo-")]) <= 8


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused_when_the_service_starts(limit: int) -> None:
    env = LocalEnvironment("concurrency")
    env.register_service("gate", Gate, limit, 1)
    with pytest.raises(ValueError, match=f"'gate' has max_concurrency={limit}; it must be at"):
        env.call_service("gate", 1)


def test_a_cancelled_call_that_waits_never_runs() -> None:
    class Slow(BaseService):
        def __init__(self) -> None:
            self.begun = threading.Event()
            self.release = threading.Event()
            self.ran: list[Any] = []

        def process(self, payload: Any) -> Any:
            self.begun.set()
            assert self.release.wait(10)
            self.ran.append(payload)
            return list(self.ran)

        def let_go(self) -> None:
            raise AssertionError("let_go_async is used")

        def let_go_async(self) -> Future[None]:
            assert self.begun.wait(10)
            self.release.set()
            future: Future[None] = Future()
            future.set_result(None)
            return future

    with LocalEnvironment("cancel") as env:
        env.register_service("slow", Slow)
        proxy = env.service("slow")
        first, second, third = (proxy.call_async(n) for n in range(3))
        assert second.cancel()
        proxy.let_go()
        assert first.result(10) == [0]
        assert third.result(10) == [0, 2]
