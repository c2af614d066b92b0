"""What programs written for earlier SAGE do: it works, or an error says the new way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import pytest

from sage.common.core.functions import (
    BaseFunction,
    FlatMapFunction,
    MapFunction,
    SinkFunction,
    SourceFunction,
    StopSignal,
)
from sage.common.service import ServiceTimeoutError
from sage.kernel.api import BaseService, DataStream, LocalEnvironment


@pytest.fixture
def env() -> LocalEnvironment:
    return LocalEnvironment("earlier")


def results(env: LocalEnvironment, stream: DataStream) -> list[Any]:
    out: list[Any] = []
    stream.sink(out.append)
    env.submit()
    return out


# -- a clean-up by another name --------------------------------------------------------------------


class ClosingSink(SinkFunction):
    def execute(self, record: Any) -> None: ...

    def close(self) -> None:
        raise AssertionError("nobody calls it")


class TearingDownSource(SourceFunction):
    def execute(self) -> Any:
        return StopSignal()

    def teardown(self) -> None:
        raise AssertionError("nobody calls it")


class ClosesInCleanup(ClosingSink):
    closed = threading.Event()

    def close(self) -> None:
        self.closed.set()

    def cleanup(self) -> None:
        self.close()


@pytest.mark.parametrize(
    ("describe", "name"),
    [
        (lambda env: env.from_collection([1]).sink(ClosingSink), "ClosingSink.close"),
        (lambda env: env.from_collection([1]).sink(partial(ClosingSink)), "ClosingSink.close"),
        (lambda env: env.from_collection([1]).map(int, on_error=ClosingSink), "ClosingSink.close"),
        (lambda env: env.from_source(TearingDownSource), "TearingDownSource.teardown"),
    ],
)
def test_a_cleanup_that_would_never_run_is_refused_when_it_is_described(
    env: LocalEnvironment, describe: Callable[[LocalEnvironment], Any], name: str
) -> None:
    with pytest.raises(TypeError, match=rf"{name}\(\) would never be called; name it cleanup\(\)"):
        describe(env)


def test_a_cleanup_may_call_a_close_of_its_own(env: LocalEnvironment) -> None:
    env.from_collection([1]).sink(ClosesInCleanup)
    env.submit()
    assert ClosesInCleanup.closed.is_set()


def test_a_service_with_a_teardown_is_refused_too(env: LocalEnvironment) -> None:
    class TearingDown(BaseService):
        def teardown(self) -> None: ...

    with pytest.raises(TypeError, match=r"TearingDown.teardown\(\) .* name it cleanup\(\)"):
        env.register_service("old", TearingDown)


# -- functions -------------------------------------------------------------------------------------


class Plain(BaseFunction):
    """What earlier programs derive from BaseFunction alone, with a constructor that hands on."""

    def __init__(self, factor: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def execute(self, record: Any) -> Any:
        return self.factor * record


def test_a_plain_function_is_what_it_is_used_as(env: LocalEnvironment) -> None:
    stream = env.from_collection([1, 2]).map(Plain, 3, verbose=True)
    assert results(env, stream) == [3, 6]


@pytest.mark.parametrize(("kind", "expected"), [("filter", [1, 2]), ("flatmap", [1, 2, 1, 2])])
def test_it_may_be_used_as_others_too(
    env: LocalEnvironment, kind: str, expected: list[Any]
) -> None:
    records: list[Any] = [1, 2] if kind == "filter" else [[1, 2]]
    assert results(env, getattr(env.from_collection(records), kind)(Plain)) == expected


def test_one_without_execute_is_refused(env: LocalEnvironment) -> None:
    class Empty(BaseFunction): ...

    with pytest.raises(TypeError, match=r"takes a MapFunction, and Empty is none; it has no exe"):
        env.from_collection([1]).map(Empty)


def test_an_argument_that_no_constructor_accepts_is_still_an_error(env: LocalEnvironment) -> None:
    class Bare(MapFunction):
        def execute(self, record: Any) -> Any:
            return record

    kinds: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((), {"factr": 3}), ((3,), {})]
    for args, kwargs in kinds:
        with pytest.raises(TypeError, match=r"Bare\(\) accepts no arguments, and got (factr|3)"):
            Bare(*args, **kwargs)
    env.from_collection([1]).map(Bare, factr=3)
    with pytest.raises(TypeError, match=r"Bare\(\) accepts no arguments, and got factr"):
        env.submit()


def test_positional_arguments_have_to_end_somewhere() -> None:
    class Hands(Plain):
        def __init__(self) -> None:
            super(Plain, self).__init__(7)

    with pytest.raises(TypeError, match=r"Hands\(\) accepts no arguments, and got 7"):
        Hands()


def test_a_mixin_behind_the_function_gets_what_is_handed_on() -> None:
    class Tagged:
        def __init__(self, tag: str = "none") -> None:
            self.tag = tag

    class Both(Plain, Tagged): ...

    assert Both(5, tag="mine").tag == "mine"
    assert Both().tag == "none"


def test_a_service_hands_on_too(env: LocalEnvironment) -> None:
    class Old(BaseService):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)

        def process(self, payload: Any) -> Any:
            return self.name, payload

    env.register_service("old", Old, model="m")
    with env:
        assert env.call_service("old", 1) == ("old", 1)


def test_the_name_is_the_operators_unless_there_is_one(env: LocalEnvironment) -> None:
    class Named(MapFunction):
        def execute(self, record: Any) -> Any:
            return self.name

    class NamesItself(Named):
        def __init__(self) -> None:
            self.name = "my own"

    stream = env.from_collection([1]).map(Named, name="first").sink(lambda _: None)
    assert results(env, stream.map(NamesItself)) == ["my own"]
    env = LocalEnvironment("other")
    assert results(env, env.from_collection([1]).map(Named, name="first")) == ["first"]
    assert Named().name == "unbound"


def test_a_method_of_a_service_may_be_called_name(env: LocalEnvironment) -> None:
    class HasName(BaseService):
        def name(self) -> str:
            return "a method"

    env.register_service("service", HasName)
    with env:
        assert env.call_service("service", method="name") == "a method"


class Seldom(FlatMapFunction):
    def execute(self, record: int) -> Any:
        if record % 3 == 0:
            return [record]
        return None


def test_a_flatmap_that_returns_none_yields_nothing(env: LocalEnvironment) -> None:
    assert results(env, env.from_collection(range(7)).flatmap(Seldom)) == [0, 3, 6]


# -- calls of services -----------------------------------------------------------------------------


class Slow(BaseService):
    """Does what it is told to; ``later`` returns Futures, ``plain`` holds a thread."""

    max_concurrency = None

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []
        self.go_on = threading.Event()

    def process(self, payload: Any) -> Any:
        return ("process", payload)

    def plain(self, payload: Any) -> Any:
        assert self.go_on.wait(10)
        return payload

    def later(self, payload: Any) -> Any: ...

    def later_async(self, payload: Any) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]

    def cleanup(self) -> None:
        self.go_on.set()


@pytest.fixture
def slow(env: LocalEnvironment) -> Any:
    env.register_service("slow", Slow)
    with env:
        env.service_manager.start()
        yield env.service_manager._running["slow"].service


def test_a_call_without_a_method_is_process(env: LocalEnvironment, slow: Slow) -> None:
    manager = env.service_manager
    assert manager.call_service("slow", 1, method=None) == ("process", 1)
    assert manager.call_service("slow", 1, method=None, timeout=5) == ("process", 1)
    assert manager.call_service_async("slow", 1, method=None).result(5) == ("process", 1)
    assert env.call_service("slow", 1, method=None) == ("process", 1)


@pytest.mark.parametrize("method", ["plain", "later"])
def test_an_asynchronous_call_has_a_timeout(env: LocalEnvironment, slow: Slow, method: str) -> None:
    began = time.monotonic()
    future = env.service_manager.call_service_async("slow", 1, method=method, timeout=0.1)
    with pytest.raises(ServiceTimeoutError, match=rf"slow.{method} had no result within 0.1 s"):
        future.result(8)
    assert 0.1 <= time.monotonic() - began < 8  # "plain" would last 10
    if method == "later":
        assert slow.futures[0].cancelled()


def test_one_that_is_in_time_has_its_result_or_its_error(env: LocalEnvironment, slow: Slow) -> None:
    call = partial(env.service_manager.call_service_async, "slow", 1, method="later", timeout=30)
    good, bad, gone = call(), call(), call()
    slow.futures[0].set_result("good")
    slow.futures[1].set_exception(OSError("bad"))
    slow.futures[2].cancel()
    assert good.result(5) == "good"
    with pytest.raises(OSError, match="bad"):
        bad.result(5)
    with pytest.raises(CancelledError):
        gone.result(5)


def test_cancelling_one_cancels_its_call(env: LocalEnvironment, slow: Slow) -> None:
    future = env.service_manager.call_service_async("slow", 1, method="later", timeout=30)
    assert future.cancel()
    assert slow.futures[0].cancelled()
    assert wait([future], 5).done == {future}


def test_a_shorter_timeout_is_not_kept_waiting_by_a_longer_one(
    env: LocalEnvironment, slow: Slow
) -> None:
    call = partial(env.service_manager.call_service_async, "slow", 1, method="later")
    long, short = call(timeout=60), call(timeout=0.1)
    with pytest.raises(ServiceTimeoutError):
        short.result(5)
    assert not long.done()


def test_a_thousand_timeouts_have_one_thread_that_ends_with_the_services(
    env: LocalEnvironment, slow: Slow
) -> None:
    before = set(threading.enumerate())  # one of an earlier test may be at its end
    call = partial(env.service_manager.call_service_async, "slow", 1, method="later")
    futures = [call(timeout=0.2) for _ in range(1000)]
    new = set(threading.enumerate()) - before
    threads = [thread for thread in new if thread.name == "sage-call-timeouts"]
    assert len(threads) == 1
    for future in futures:
        with pytest.raises(ServiceTimeoutError):
            future.result(5)
    env.close()
    threads[0].join(20)
    assert not threads[0].is_alive()


def test_the_context_calls_services(env: LocalEnvironment) -> None:
    class Asks(MapFunction):
        def execute(self, record: Any) -> Any:
            there = self.ctx.call_service("slow", record, timeout=5)
            return there, self.ctx.call_service_async("slow", record, timeout=5).result()

    env.register_service("slow", Slow)
    stream = env.from_collection([1]).map(Asks)
    assert results(env, stream) == [(("process", 1), ("process", 1))]


# -- a source without an end -----------------------------------------------------------------------


class Ticks(SourceFunction):
    def execute(self) -> float:
        time.sleep(0.01)
        return time.monotonic()


def waiting_for(
    caplog: pytest.LogCaptureFixture, env: LocalEnvironment, stop: Callable[[], Any], said: int
) -> list[str]:
    """Submit, stop a while after so much was logged, and return what was."""
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(1) as threads:
        submitted = threads.submit(env.submit)
        deadline = time.monotonic() + 20
        while len(caplog.records) < said and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(2)
        stop()
        submitted.result(10)
    return [record.getMessage() for record in caplog.records]


def test_submit_says_once_that_it_waits_for_a_source_without_an_end(
    env: LocalEnvironment, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage.kernel.runtime.execution.local_executor._ENDLESS_AFTER", 0.1)
    env.from_source(Ticks, name="poll").sink(lambda _: None)
    assert waiting_for(caplog, env, env.stop, 1) == [
        "submit() waits until source 'poll' of pipeline 'earlier' returns a StopSignal, or another "
        "thread calls stop(); submit(autostop=False) returns at once"
    ]


def test_it_does_not_say_so_of_a_source_that_has_an_end_or_was_at_it(
    env: LocalEnvironment, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage.kernel.runtime.execution.local_executor._ENDLESS_AFTER", 1.0)
    go_on = threading.Event()
    env.from_collection([1]).sink(lambda _: go_on.wait(10))
    env.from_collection(iter([1])).union(env.from_collection([2])).sink(lambda _: go_on.wait(10))
    assert waiting_for(caplog, env, go_on.set, 0) == []
