"""Environments in coroutines: services are called and pipelines run beside the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

import pytest

from sage.common.core.functions import AsyncMapFunction, SourceFunction
from sage.common.service import (
    BaseService,
    ServiceClosedError,
    ServiceMethodNotFoundError,
    ServiceNotFoundError,
    ServiceTimeoutError,
)
from sage.kernel.api import LocalEnvironment, PipelineCancelledError

pytestmark = pytest.mark.usefixtures("each_environment")

USER: ContextVar[str] = ContextVar("USER", default="nobody")


class Shop(BaseService):
    """Opens slowly; answers by a Future, or on a thread."""

    max_concurrency = None

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self.closed = threading.Event()

    def setup(self) -> None:
        time.sleep(0.2)

    def stop(self) -> None:
        self.closed.set()

    def price(self, name: str) -> Any:
        raise AssertionError(f"its twin is called, not price({name!r})")

    def price_async(self, name: str) -> Future[Any]:
        if name == "gold":
            raise PermissionError("ask Ada")
        future: Future[Any] = Future()
        self.futures.append(future)
        if name != "never":
            future.set_result(len(name))
        return future

    def user(self) -> str:
        return USER.get()

    async def never_awaited(self) -> None:
        raise AssertionError("it is called")


@pytest.fixture
def env() -> Iterator[LocalEnvironment]:
    with LocalEnvironment("coroutines") as opened:
        opened.register_service("shop", Shop)
        yield opened


def wait_for(loop: asyncio.AbstractEventLoop) -> None:
    """Wait until a loop comes round; fail if the caller holds it up."""
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result(10)


class Patient(Shop):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop

    def setup(self) -> None:
        wait_for(self.loop)

    def stop(self) -> None:
        wait_for(self.loop)


def test_calls_open_the_services_beside_the_loop() -> None:
    async def main() -> None:
        async with LocalEnvironment("patient") as env:
            env.register_service("shop", Patient, asyncio.get_running_loop())
            calls = [env.acall_service("shop", "tea" * n, method="price") for n in range(1, 20)]
            assert await asyncio.gather(*calls) == [3 * n for n in range(1, 20)]

    asyncio.run(main())


def test_what_is_wrong_is_raised_at_the_await(env: LocalEnvironment) -> None:
    async def main() -> None:
        for name, arguments, error, says in (
            ("shop", {"method": "prise"}, ServiceMethodNotFoundError, "did you mean 'price'"),
            ("shop", {"method": "price", "nam": "tea"}, TypeError, "nam"),
            ("shop", {"method": "price", "name": "gold"}, PermissionError, "ask Ada"),
            ("shop", {"method": "never_awaited"}, TypeError, "is `async def`"),
            ("ship", {}, ServiceNotFoundError, "did you mean 'shop'"),
        ):
            call: Any = env.acall_service(name, **arguments)
            with pytest.raises(error, match=says):
                await call
            with pytest.raises(error, match=says):
                env.service_manager.call_service_async(name, **arguments).result(5)
        with pytest.raises(ServiceTimeoutError, match=r"no result within 0\.05 s"):
            await env.acall_service("shop", "never", method="price", timeout=0.05)

    asyncio.run(main())


def test_a_service_sees_the_context_variables_of_its_caller(env: LocalEnvironment) -> None:
    async def ask(user: str) -> Any:
        USER.set(user)
        return await env.acall_service("shop", method="user")

    async def main() -> list[Any]:
        return await asyncio.gather(*map(ask, ("ada", "bob")))

    assert asyncio.run(main()) == ["ada", "bob"]


def test_cancelling_an_await_cancels_the_call(env: LocalEnvironment) -> None:
    shop = Shop()

    async def main() -> None:
        async with shop:
            env.register_service("mine", shop)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await env.acall_service("mine", "never", method="price")
            assert shop.futures[0].cancelled()

    asyncio.run(main())
    assert shop.closed.is_set()


def test_a_call_that_its_environment_closes_fails_and_its_task_is_not_cancelled() -> None:
    async def main() -> None:
        async with Shop() as shop:
            async with LocalEnvironment("short") as env:
                env.register_service("shop", shop)
                call = env.acall_service("shop", "never", method="price")
                task = asyncio.create_task(call)
                while not shop.futures:
                    await asyncio.sleep(0.001)
            with pytest.raises(ServiceClosedError, match="closed before the call was done"):
                await task
            with pytest.raises(ServiceClosedError):
                await env.acall_service("shop", "tea", method="price")

    asyncio.run(main())


def test_a_coroutine_of_an_operator_calls_services(env: LocalEnvironment) -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    class Twice(AsyncMapFunction):
        def submit(self, record: str) -> Future[int]:
            return asyncio.run_coroutine_threadsafe(self.work(record), loop)

        async def work(self, record: str) -> int:
            first = await self.acall_service("shop", record, method="price")
            second: int = await self.acall_service("shop", "x" * first, method="price")
            return first + second

    try:
        assert env.from_collection(["tea", "cake"]).map(Twice).collect() == [6, 8]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


# -- pipelines --------------------------------------------------------------------------------


class Endless(SourceFunction):
    def execute(self) -> int:
        time.sleep(0.001)
        return 1


def test_a_pipeline_runs_beside_the_loop() -> None:
    async def main() -> None:
        loop, out = asyncio.get_running_loop(), list[int]()

        def double(record: int) -> int:
            wait_for(loop)
            return record * 2

        async with LocalEnvironment("run") as env:
            env.register_service("shop", Patient, loop)
            env.from_collection(range(10)).map(double).sink(out.append)
            await env.asubmit()
        assert out == [2 * n for n in range(10)]

    asyncio.run(main())


def test_an_error_of_a_record_is_raised_at_the_await() -> None:
    def fail(record: int) -> float:
        return 1 / record

    async def main() -> None:
        async with LocalEnvironment("fails") as env:
            env.from_collection([1, 0]).map(fail).sink(print)
            with pytest.raises(ZeroDivisionError) as caught:
                await env.asubmit()
            assert "operator 'fail'" in "".join(caught.value.__notes__)
        with pytest.raises(RuntimeError, match="has no stream"):
            await LocalEnvironment("empty").asubmit()

    asyncio.run(main())


@pytest.mark.parametrize("when", ["opening", "running"])
def test_cancelling_the_await_stops_the_run_before_it_returns(when: str) -> None:
    shops, out = list[Shop](), list[int]()
    threads = set(threading.enumerate())
    opening, go_on = threading.Event(), threading.Event()

    class Kept(Shop):
        def __init__(self) -> None:
            super().__init__()
            shops.append(self)

        def setup(self) -> None:
            opening.set()
            assert go_on.wait(20)

    async def main() -> LocalEnvironment:
        env = LocalEnvironment("stops")
        env.register_service("shop", Kept)
        env.from_source(Endless).sink(out.append)
        run = asyncio.create_task(env.asubmit())
        if when == "running":
            go_on.set()
        while not (out if when == "running" else opening.is_set()):
            await asyncio.sleep(0.001)
        run.cancel()
        while not env.service_manager.closed:
            await asyncio.sleep(0.001)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await run
        count = len(out)
        assert [shop.closed.is_set() for shop in shops] == [True]
        await asyncio.sleep(0.05)
        assert len(out) == count
        return env

    env = asyncio.run(main())
    assert (len(out) > 0) is (when == "running")
    with pytest.raises((PipelineCancelledError, RuntimeError)):
        env.wait()
    deadline = time.monotonic() + 20
    while set(threading.enumerate()) - threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= threads


def test_a_run_without_autostop_goes_on_until_the_environment_is_left() -> None:
    out: list[int] = []

    async def main() -> None:
        async with LocalEnvironment("goes on") as env:
            env.from_source(Endless).sink(out.append)
            await env.asubmit(autostop=False)
            while len(out) < 5:
                await asyncio.sleep(0.01)

    asyncio.run(main())
    count = len(out)
    time.sleep(0.05)
    assert len(out) == count


def test_two_environments_run_at_once() -> None:
    met = threading.Barrier(2)

    def meet(record: int) -> int:
        met.wait(10)
        return record

    async def run() -> list[int]:
        out: list[int] = []
        async with LocalEnvironment("one of two") as env:
            env.from_collection(range(3)).map(meet).sink(out.append)
            await env.asubmit()
        return out

    async def main() -> list[list[int]]:
        return await asyncio.gather(run(), run())

    assert asyncio.run(main()) == [[0, 1, 2]] * 2
