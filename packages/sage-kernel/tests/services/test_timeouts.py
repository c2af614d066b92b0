from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import pytest

from sage.common.core.functions import MapFunction
from sage.common.service import BaseService, ServiceTimeoutError
from sage.kernel.api import LocalEnvironment

pytestmark = pytest.mark.usefixtures("each_environment")


class Slow(BaseService):
    """One plain method and one with a twin, neither of which ends by itself."""

    max_concurrency = 2

    def __init__(self, futures: list[Future[Any]], release: threading.Event) -> None:
        self.futures = futures
        self.release = release

    def plain(self) -> str:
        assert self.release.wait(20)
        return "released"

    def twinned(self) -> str:
        raise AssertionError("the kernel uses the twin")

    def twinned_async(self) -> Future[str]:
        future: Future[str] = Future()
        self.futures.append(future)
        return future

    def quick(self) -> str:
        return "quick"


@pytest.fixture
def futures() -> list[Future[Any]]:
    return []


@pytest.fixture
def env(futures: list[Future[Any]]) -> Any:
    release = threading.Event()
    with LocalEnvironment("timeouts") as env:
        env.register_service("slow", Slow, futures, release)
        yield env
        release.set()


@pytest.mark.parametrize("method", ["plain", "twinned"])
def test_a_call_that_takes_too_long_says_which(env: LocalEnvironment, method: str) -> None:
    with pytest.raises(ServiceTimeoutError, match=rf"slow\.{method} had no result within 0\.05 s"):
        env.call_service("slow", method=method, timeout=0.05)
    with pytest.raises(TimeoutError):
        env.call_service("slow", method=method, timeout=0)


def test_a_timeout_cancels_the_future_of_a_twin(
    env: LocalEnvironment, futures: list[Future[Any]]
) -> None:
    with pytest.raises(ServiceTimeoutError):
        env.call_service("slow", method="twinned", timeout=0.05)
    assert [future.cancelled() for future in futures] == [True]


def test_a_plain_method_that_timed_out_keeps_its_slot_and_others_go_on(
    env: LocalEnvironment,
) -> None:
    with pytest.raises(ServiceTimeoutError):
        env.call_service("slow", method="plain", timeout=0.05)
    assert env.call_service("slow", method="quick", timeout=10) == "quick"


def test_a_call_that_timed_out_before_it_began_never_runs() -> None:
    class Busy(BaseService):
        def __init__(self) -> None:
            self.ran: list[str] = []

        def process(self, payload: str) -> list[str]:
            if payload == "first":
                begun.set()
                assert release.wait(10)
            self.ran.append(payload)
            return self.ran

    begun, release = threading.Event(), threading.Event()
    with LocalEnvironment("busy") as env, ThreadPoolExecutor(1) as callers:
        env.register_service("busy", Busy)
        first = callers.submit(env.call_service, "busy", "first")  # on its caller's own thread
        assert begun.wait(10)
        with pytest.raises(ServiceTimeoutError):
            env.call_service("busy", "second", timeout=0.05)
        release.set()
        first.result(10)
        assert env.call_service("busy", "third", timeout=10) == ["first", "third"]


@pytest.mark.parametrize("timeout", [None, 10])
@pytest.mark.parametrize("error", [CancelledError, TimeoutError])
def test_an_error_of_the_service_that_looks_like_ours_arrives_as_it_was_raised(
    error: type[Exception], timeout: float | None
) -> None:
    class Raises(BaseService):
        def process(self, payload: str) -> None:
            raise error(payload)

    with LocalEnvironment("raises") as env:
        env.register_service("raises", Raises)
        with pytest.raises(error) as caught:
            env.call_service("raises", "the service's own", timeout=timeout)
    assert type(caught.value) is error
    assert str(caught.value) == "the service's own"


def test_cancelling_an_asynchronous_call_cancels_the_future_of_the_twin(
    env: LocalEnvironment, futures: list[Future[Any]]
) -> None:
    env.service("slow").call_async(method="twinned").cancel()
    assert [future.cancelled() for future in futures] == [True]


def test_a_timeout_in_a_function_fails_the_pipeline(env: LocalEnvironment) -> None:
    class Asks(MapFunction):
        def execute(self, record: Any) -> Any:
            return self.call_service("slow", method="plain", timeout=0.05)

    env.config["close_timeout"] = 0.1
    env.from_collection([1]).map(Asks)
    with pytest.raises(ServiceTimeoutError, match=r"slow\.plain") as caught:
        env.submit()
    assert caught.value.__notes__ == ["in operator 'Asks' on record 1"]
