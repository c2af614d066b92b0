"""Services that are open already: environments borrow them. And when calls work at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from sage.common.service import ServiceClosedError, ServiceNotFoundError
from sage.kernel.api import BaseService, LocalEnvironment


class Prices(BaseService):
    """Keeps what happened to it, and how many calls it had at once."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.calls = 0
        self.at_once = self.most = 0

    def setup(self) -> None:
        self.steps.append("setup")

    def cleanup(self) -> None:
        self.steps.append("cleanup")

    def process(self, payload: Any) -> Any:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        threading.Event().wait(0.002)  # long enough for another thread to be here too
        self.calls += 1
        self.at_once -= 1
        return 2 * payload


@pytest.fixture
def prices() -> Iterator[Prices]:
    with Prices() as service:
        yield service


def test_many_environments_share_one_and_none_closes_it(prices: Prices) -> None:
    for first in (1, 10):
        with LocalEnvironment() as env:
            assert env.register_service("prices", prices) is prices
            stream = env.from_collection([first, first + 1])
            doubled = stream.map(lambda n, env=env: env.call_service("prices", n)).collect()
            assert doubled == [2 * first, 2 * first + 2]
        assert prices.process(5) == 10
    assert prices.steps == ["setup"]


def test_it_keeps_its_own_limit_in_all_of_them(prices: Prices) -> None:
    environments = [LocalEnvironment(f"env-{n}") for n in range(3)]
    for env in environments:
        env.register_service("prices", prices)
    with ThreadPoolExecutor(9) as threads:
        calls = [
            threads.submit(env.call_service, "prices", n, timeout=timeout)
            for env in environments
            for n in range(10)
            for timeout in (None, 60)
        ]
        assert sorted(call.result() for call in calls) == sorted(2 * [2 * n for n in range(10)] * 3)
    for env in environments:
        env.close()
    assert (prices.calls, prices.most) == (60, 1)


def test_one_that_is_not_open_is_refused(prices: Prices) -> None:
    with LocalEnvironment() as env:
        with pytest.raises(RuntimeError, match=r"'prices' is not open; open it first .*class"):
            env.register_service("prices", Prices())
        prices.close()
        with pytest.raises(RuntimeError, match="'prices' is not open"):
            env.register_service("prices", prices)


def test_arguments_beside_an_instance_are_refused(prices: Prices) -> None:
    wrong: Any = LocalEnvironment().register_service
    with pytest.raises(TypeError, match="is an instance, which has its arguments already; got 3"):
        wrong("prices", prices, 3)


def test_one_that_its_owner_closes_says_so(prices: Prices) -> None:
    with LocalEnvironment() as env:
        env.register_service("prices", prices)
        assert env.call_service("prices", 1) == 2
        prices.close()
        with pytest.raises(ServiceClosedError, match="closed by whoever opened it"):
            env.call_service("prices", 1)


def test_names_are_taken_by_both_kinds_and_the_nearest_is_named(prices: Prices) -> None:
    with LocalEnvironment() as env:
        env.register_service("prices", prices)
        with pytest.raises(ValueError, match="'prices' is already registered"):
            env.register_service("prices", Prices)
        with pytest.raises(ServiceNotFoundError, match="did you mean 'prices'"):
            env.call_service("price", 1)


def test_it_may_come_after_others_have_opened(prices: Prices) -> None:
    with LocalEnvironment() as env:
        env.register_service("own", Prices)
        assert env.call_service("own", 1) == 2
        env.register_service("prices", prices)
        assert env.call_service("prices", 2) == 4
    with pytest.raises(RuntimeError, match="cannot register service 'again': the services are cl"):
        env.register_service("again", prices)


def test_its_calls_need_no_other_service(prices: Prices) -> None:
    class Broken(BaseService):
        def setup(self) -> None:
            raise OSError("no memory")

    with LocalEnvironment() as env:
        env.register_service("broken", Broken)
        env.register_service("prices", prices)
        assert env.service("prices").process(2) == 4
        with pytest.raises(OSError, match="no memory"):
            env.call_service("broken", 1)


class Remote(BaseService):
    """Its calls end when somebody says so."""

    max_concurrency = None

    def __init__(self) -> None:
        self.calls: list[Future[int]] = []

    def ask(self) -> int:
        raise AssertionError("its twin is used")

    def ask_async(self) -> Future[int]:
        self.calls.append(Future())
        return self.calls[-1]


def test_an_environment_that_closes_cancels_its_own_calls_alone() -> None:
    with Remote() as remote, LocalEnvironment("stays") as stays, ThreadPoolExecutor(1) as threads:
        stays.register_service("remote", remote)
        kept = stays.service("remote").call_async(method="ask")
        with LocalEnvironment("ends") as ends:
            ends.register_service("remote", remote)
            cancelled = ends.service("remote").call_async(method="ask")
            waiting = threads.submit(ends.call_service, "remote", method="ask")
            while len(remote.calls) < 3:
                threading.Event().wait(0.001)
        assert cancelled.cancelled()
        with pytest.raises(ServiceClosedError, match="'remote' takes no calls"):
            waiting.result(20)
        remote.calls[0].set_result(7)
        assert kept.result(20) == 7
        with pytest.raises(ServiceClosedError, match="closed with its environment"):
            ends.service("remote").ask()


# -- when calls work -------------------------------------------------------------------------------


def test_calls_work_before_during_and_after_a_run() -> None:
    with LocalEnvironment() as env:
        env.register_service("prices", Prices)
        assert env.call_service("prices", 1) == 2
        during: list[int] = []
        env.from_collection([2]).sink(lambda n: during.append(env.call_service("prices", n)))
        env.submit(autostop=False)
        env.wait()
        assert during == [4]
        assert env.call_service("prices", 3) == 6
    with pytest.raises(ServiceClosedError, match="it has been closed with its environment"):
        env.call_service("prices", 4)


def test_after_a_submit_that_closes_they_say_what_to_do() -> None:
    with LocalEnvironment() as env:
        env.register_service("prices", Prices)
        env.from_collection([2]).sink(print)
        env.submit()
        with pytest.raises(ServiceClosedError) as caught:
            env.call_service("prices", 1)
    assert caught.value.why == "submit() has closed it, after the last record"
    assert "submit(autostop=False) with wait()" in str(caught.value.hint)


def test_after_a_run_that_failed_they_say_that() -> None:
    with LocalEnvironment() as env:
        env.register_service("prices", Prices)
        env.from_collection([0]).map(lambda n: 1 // n).sink(print)
        with pytest.raises(ZeroDivisionError):
            env.submit()
        with pytest.raises(ServiceClosedError, match="closed, since the run ended with an error"):
            env.call_service("prices", 1)
