"""Operators that are ``async def``: kinds, order, windows, errors, services, threads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

import pytest

from sage.common.core.errors import RecordTimeoutError, SageError
from sage.common.core.functions import FilterFunction, FlatMapFunction, MapFunction
from sage.common.service import BaseService, ServiceClosedError, ServiceNotFoundError
from sage.kernel.api import LocalEnvironment, UnawaitedCoroutineError
from sage.kernel.runtime.coroutines import coroutine_call

pytestmark = pytest.mark.usefixtures("each_environment")


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def is_even(number: int) -> bool:
    await asyncio.sleep(0)
    return number % 2 == 0


async def twice(number: int) -> list[int] | None:
    await asyncio.sleep(0)
    return [number] * 2 if number else None


async def count_up(number: int) -> AsyncIterator[int]:
    for item in range(number):
        await asyncio.sleep(0)
        yield item


class Double(MapFunction):
    async def execute(self, record: int) -> int:
        return await double(record)


class IsEven(FilterFunction):
    async def execute(self, record: int) -> bool:
        return await is_even(record)


class CountUp(FlatMapFunction):
    async def execute(self, record: int) -> AsyncIterator[int]:  # type: ignore[override]  # it is a generator
        for item in range(record):
            yield item


class Callable:
    async def __call__(self, record: int) -> int:
        return record + 1


async def added(addend: int, number: int) -> int:
    return addend + number


def collected(records: Any, method: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    with LocalEnvironment("coroutines") as env:
        return getattr(env.from_collection(records), method)(function, *args, **kwargs).collect()


# -- kinds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "function", "result"),
    [
        ("map", double, [0, 2, 4, 6]),
        ("map", Double, [0, 2, 4, 6]),
        ("map", Callable(), [1, 2, 3, 4]),
        ("map", partial(added, 3), [3, 4, 5, 6]),
        ("filter", is_even, [0, 2]),
        ("filter", IsEven, [0, 2]),
        ("flatmap", twice, [1, 1, 2, 2, 3, 3]),
        ("flatmap", count_up, [0, 0, 1, 0, 1, 2]),
        ("flatmap", CountUp, [0, 0, 1, 0, 1, 2]),
    ],
)
def test_each_kind_of_operator_runs_coroutines(method: str, function: Any, result: Any) -> None:
    assert collected(range(4), method, function) == result


def test_arguments_are_bound_before_the_record() -> None:
    assert collected([1, 2], "map", added, 3) == [4, 5]


def test_several_operators_share_the_loop_and_keep_the_order() -> None:
    loops = set()

    async def slow_at_first(number: int) -> int:
        loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0.02 if number % 7 == 0 else 0)
        return number

    with LocalEnvironment("chain") as env:
        stream = env.from_collection(range(200)).map(slow_at_first).filter(is_even)
        out = stream.map(slow_at_first, parallelism=1).collect()
        metrics = env.metrics()
    assert out == list(range(0, 200, 2))
    assert len(loops) == 1
    counted = {each.kind: (each.records_in, each.records_out) for each in metrics.operators[:3]}
    assert counted == {"source": (0, 200), "map": (200, 200), "filter": (200, 100)}


def test_replicas_have_windows_of_their_own() -> None:
    assert sorted(collected(range(100), "map", double, parallelism=3)) == list(range(0, 200, 2))


# -- settings -------------------------------------------------------------------------------------


def test_results_go_on_as_they_come_where_order_is_not_wanted() -> None:
    others = 0

    async def first_is_last(number: int) -> int:
        nonlocal others
        others += number > 0
        while number == 0 and others < 2:
            await asyncio.sleep(0.001)
        return number

    assert collected(range(3), "map", first_is_last, ordered=False)[-1] == 0
    others = 0
    assert collected(range(3), "map", first_is_last) == [0, 1, 2]


class Most:
    """How many are at work at once; none is done before there were so many as the window has."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.full = asyncio.Event()
        self.now = self.most = 0

    async def work(self, record: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == self.window:
            self.full.set()
        async with asyncio.timeout(20):
            await self.full.wait()
        await asyncio.sleep(0.001)
        self.now -= 1
        return record


@pytest.mark.parametrize("size", [1, 7])
def test_the_window_is_filled_and_never_exceeded(size: int) -> None:
    most = Most(size)
    assert len(collected(range(300), "map", most.work, max_in_flight=size)) == 300
    assert most.most == size


def test_without_a_service_256_records_are_at_work() -> None:
    most = Most(256)
    collected(range(2000), "map", most.work)
    assert most.most == 256


def test_a_class_has_its_settings_as_attributes() -> None:
    most = Most(3)

    class Small(MapFunction):
        max_in_flight = 3

        async def execute(self, record: Any) -> Any:
            return await most.work(record)

    collected(range(50), "map", Small)
    assert most.most == 3


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"timeout": 0}, "timeout of operator 'double' must be seconds above 0, or None, not 0"),
        ({"retries": -1}, "retries of operator 'double' must be a whole number, 0 or more"),
        ({"max_in_flight": 0}, "max_in_flight of operator 'double' must be a whole number above"),
        ({"ordered": "no"}, "ordered of operator 'double' must be True or False, not 'no'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_at_its_line(setting: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LocalEnvironment().from_collection([1]).map(double, **setting)


# -- errors ---------------------------------------------------------------------------------------


class BusyError(SageError):
    retryable = True


def test_an_error_stops_the_run_with_operator_and_record() -> None:
    async def fail(record: int) -> int:
        await asyncio.sleep(0)
        return 1 // record

    with pytest.raises(ZeroDivisionError) as caught:
        collected([2, 1, 0, 3], "map", fail)
    assert caught.value.__notes__ == ["in operator 'fail' on record 0"]


def test_errors_go_where_on_error_says() -> None:
    letters: list[Any] = []

    async def fail(record: int) -> int:
        return 6 // record

    assert collected([2, 0, 3], "map", fail, on_error="skip") == [3, 2]
    assert collected([2, 0, 3], "map", fail, on_error=letters.append) == [3, 2]
    assert [(letter.record, type(letter.error)) for letter in letters] == [(0, ZeroDivisionError)]


def test_a_retryable_error_is_tried_again() -> None:
    tries: Counter[int] = Counter()

    async def flaky(record: int) -> int:
        tries[record] += 1
        if tries[record] < 3:
            raise BusyError("busy")
        return record

    assert collected([1, 2], "map", flaky, retries=2, retry_backoff=0.01) == [1, 2]
    assert tries == {1: 3, 2: 3}
    with pytest.raises(BusyError):
        collected([3], "map", flaky, retries=1, retry_backoff=0.01)


def test_a_record_that_takes_too_long_is_cancelled() -> None:
    ends: list[str] = []

    async def stuck(record: int) -> int:
        try:
            await asyncio.sleep(60 if record == 1 else 0)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        return record

    letters: list[Any] = []
    out = collected([0, 1, 2], "map", stuck, timeout=1, on_error=letters.append)
    assert (out, ends) == ([0, 2], ["cancelled"])
    assert isinstance(letters[0].error, RecordTimeoutError)


def test_a_flatmap_of_what_is_no_list_is_the_records_error() -> None:
    with pytest.raises(TypeError, match="not iterable") as caught:
        collected([3], "flatmap", double)
    assert caught.value.__notes__ == ["in operator 'double' on record 3"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit(3)])
def test_what_ends_a_program_ends_the_run(error: Any) -> None:
    async def leave(record: int) -> int:
        raise error

    with pytest.raises(type(error) if not isinstance(error, type) else error):
        collected([1], "map", leave, on_error="skip")


def test_a_coroutine_that_cancels_itself_fails_its_record() -> None:
    async def cancelled(record: int) -> int:
        raise asyncio.CancelledError

    with pytest.raises(CancelledError, match="cancelled from within"):
        collected([1], "map", cancelled)


# -- set-up and clean-up --------------------------------------------------------------------------


def test_setup_and_cleanup_may_be_coroutines_of_the_same_loop() -> None:
    steps: list[Any] = []

    class Session(MapFunction):
        async def setup(self) -> None:
            self.loop = asyncio.get_running_loop()
            await asyncio.sleep(0)
            steps.append("setup")

        async def execute(self, record: int) -> bool:
            return asyncio.get_running_loop() is self.loop

        async def cleanup(self) -> None:
            assert asyncio.get_running_loop() is self.loop
            steps.append("cleanup")

    async def in_a_loop() -> Any:  # as in a notebook
        return collected([1, 2], "map", Session)

    assert collected([1, 2], "map", Session) == [True, True]
    assert asyncio.run(in_a_loop()) == [True, True]
    assert steps == ["setup", "cleanup"] * 2


def test_what_an_async_setup_raises_is_raised_by_submit() -> None:
    class Broken(Double):
        async def setup(self) -> None:
            raise OSError("no session")

    with pytest.raises(OSError, match="no session") as caught:
        collected([1], "map", Broken)
    assert caught.value.__notes__ == ["in setup() of operator 'Broken'"]


# -- services -------------------------------------------------------------------------------------


class Doubling(BaseService):
    """Answers from Futures; knows how many calls it had at once."""

    max_concurrency = None

    def __init__(self, capacity: int | None = None, hold: int = 1) -> None:
        self.capacity = capacity
        self.hold = hold  # calls that have to be there before any is answered
        self.waiting: list[tuple[int, Future[int]]] = []
        self.cancelled: list[int] = []
        self.lock = threading.Lock()

    def double(self, number: int) -> int:
        raise AssertionError("its twin is called")

    def double_async(self, number: int) -> Future[int]:
        future: Future[int] = Future()
        future.add_done_callback(
            lambda done: self.cancelled.append(number) if done.cancelled() else None
        )
        with self.lock:
            self.waiting.append((number, future))
            ready = []
            if len(self.waiting) >= self.hold:
                ready, self.waiting, self.hold = self.waiting, [], 1
        for asked, each in ready:
            if each.set_running_or_notify_cancel():
                each.set_result(2 * asked)
        return future

    def process(self, payload: int) -> int:
        return payload + 1


class Calls(MapFunction):
    async def execute(self, record: int) -> int:
        doubled = await self.call("doubling", record, method="double")
        return int(await self.call("doubling", doubled))


def with_service(function: Any, records: Any, **settings: Any) -> tuple[list[Any], Doubling]:
    service = Doubling(**settings)
    with service, LocalEnvironment("calls") as env:
        env.register_service("doubling", service)
        return env.from_collection(records).map(function).collect(), service


def test_a_coroutine_calls_services() -> None:
    assert with_service(Calls, range(300))[0] == [2 * number + 1 for number in range(300)]


def test_the_window_grows_to_the_capacity_of_the_services_that_are_called() -> None:
    out, _ = with_service(Calls, range(1000), capacity=700, hold=700)  # else it would hang
    assert len(out) == 1000


def test_the_window_shrinks_to_the_capacity_of_the_services_that_are_called() -> None:
    at_work: list[int] = []
    now = 0

    class Counted(Calls):
        async def execute(self, record: int) -> int:
            nonlocal now
            now += 1
            at_work.append(now)
            try:
                async with asyncio.timeout(20):
                    while max(at_work[600:], default=2) < 2:  # or each may be done at once
                        await asyncio.sleep(0.001)
                return await super().execute(record)
            finally:
                now -= 1

    with_service(Counted, range(1000), capacity=5)
    assert 1 < max(at_work[600:]) <= 5


def test_a_timeout_cancels_the_call() -> None:
    class Late(Calls):
        timeout = 1.0

    service = Doubling(hold=10)
    with service, LocalEnvironment("calls") as env:
        env.register_service("doubling", service)
        env.from_collection([7]).map(Late).sink(print)
        with pytest.raises(RecordTimeoutError):
            env.submit()
        assert service.cancelled == [7]


def test_what_a_call_raises_is_raised_at_its_await() -> None:
    class Wrong(MapFunction):
        async def execute(self, record: int) -> Any:
            with pytest.raises(ServiceNotFoundError, match="doubling"):
                await self.call("dubling", record)
            with pytest.raises(TypeError):
                await self.call("doubling", record, 1, 2)
            return record

    assert with_service(Wrong, [1])[0] == [1]


def test_a_call_that_somebody_else_ends_is_an_error_of_the_service() -> None:
    seen: list[Any] = []

    class Waits(Calls):
        async def execute(self, record: int) -> int:
            try:
                return await super().execute(record)
            except ServiceClosedError as error:
                seen.append(error)
                raise

    service = Doubling(hold=10)
    with service, LocalEnvironment("calls") as env:
        env.register_service("doubling", service)
        env.from_collection([7]).map(Waits).sink(print)
        env.submit(autostop=False)
        while not service.waiting:
            time.sleep(0.01)
        service.waiting[0][1].cancel()
        with pytest.raises(ServiceClosedError):
            env.wait()
    assert len(seen) == 1


# -- threads, cancelling, blocking ----------------------------------------------------------------


def test_ten_thousand_records_take_three_threads() -> None:
    seen: set[str] = set()
    before = set(threading.enumerate())

    async def look(record: int) -> int:
        await asyncio.sleep(0)
        if record % 100 == 0:
            seen.update(t.name for t in set(threading.enumerate()) - before)
        return record

    assert collected(range(10_000), "map", look) == list(range(10_000))
    assert len(seen) == 3, seen


def test_close_cancels_the_tasks_before_it_cleans_up() -> None:
    steps: list[str] = []
    begun = threading.Semaphore(0)

    class Waits(MapFunction):
        async def execute(self, record: int) -> int:
            begun.release()
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.05)
                steps.append("ended")
            return record

        def cleanup(self) -> None:
            steps.append("cleaned up")

    env = LocalEnvironment("closed")
    env.from_collection([1, 2]).map(Waits).sink(print)
    env.submit(autostop=False)
    for _ in range(2):
        assert begun.acquire(timeout=10)
    env.close()
    assert steps == ["ended", "ended", "cleaned up"]
    assert env.metrics().state == "cancelled"


def test_a_call_that_is_cancelled_twice_ends_its_own_way() -> None:
    steps: list[str] = []

    async def execute(_record: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            steps.append("ended")

    async def cancel_twice() -> None:
        live: set[coroutine_call.CoroutineCall] = set()
        call = coroutine_call.CoroutineCall(
            execute,
            1,
            operator="o",
            tell_blocked=print,
            cancel_task=coroutine_call.CoroutineCall.cancel_task,
        )
        call.start(live)
        for _ in range(2):
            await asyncio.sleep(0.01)
            assert call.cancel()
        while live:
            await asyncio.sleep(0.01)

    asyncio.run(cancel_twice())
    assert steps == ["ended"]


class Stubborn:
    """Swallows its cancellation, until the test is over."""

    def __init__(self) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()

    async def work(self, record: int) -> int:
        self.begun.set()
        while not self.let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        return record


@pytest.fixture
def stubborn() -> Iterator[Stubborn]:
    made = Stubborn()
    yield made
    made.let_go.set()
    gc.collect()  # asyncio logs that a task was given up: as a part of this test


def test_a_task_that_swallows_its_cancellation_is_named(
    stubborn: Stubborn, caplog: pytest.LogCaptureFixture
) -> None:
    env = LocalEnvironment("closed", {"close_timeout": 1})
    env.from_collection([1]).map(stubborn.work, name="deaf").sink(print)
    env.submit(autostop=False)
    assert stubborn.begun.wait(10)
    env.close()
    (warning,) = [r.message for r in caplog.records if "have not returned" in r.message]
    assert warning.startswith("after 1 s these operators have not returned:")
    assert "(deaf)" in warning


def test_a_task_that_outlives_its_timeout_does_not_hold_up_the_end(
    stubborn: Stubborn, caplog: pytest.LogCaptureFixture
) -> None:
    env = LocalEnvironment("late", {"close_timeout": 0.2})
    stream = env.from_collection([1])
    stream = stream.map(stubborn.work, name="deaf", timeout=0.5, on_error="skip")
    assert stream.collect() == []
    (warning,) = [r.message for r in caplog.records if "do not end" in r.message]
    assert "deaf" in warning
    assert "0.2 s" in warning


def test_a_coroutine_that_blocks_the_loop_is_named_once(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    held_up: Any,
) -> None:
    monkeypatch.setattr(coroutine_call, "BLOCKED_SECONDS", 0.1)

    async def blocks(record: int) -> int:
        await asyncio.sleep(0)
        time.sleep(0.12)
        return record

    with LocalEnvironment("blocked") as env:
        stream = env.from_collection([1, 2]).map(blocks, name="greedy").map(double, name="other")
        assert stream.collect() == [2, 4]
    told = [r.message for r in caplog.records if "without an await" in r.message]
    (warning,) = [message for message in told if "operator 'greedy'" in message]
    ran = re.search(r"operator 'greedy' ran for ([\d.]+) s", warning)
    assert ran
    assert 0.1 <= float(ran[1]) <= 0.2 + held_up()
    assert told == [warning] or held_up() > 0.1  # then it is told of the other one as well


class Forgets(MapFunction):
    async def execute(self, record: int) -> Any:
        return double(record)  # without an await


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("map", lambda number: double(number)),
        ("map", Forgets),
        ("filter", lambda number: double(number)),
        ("keyby", lambda number: double(number)),
        ("sink", lambda number: double(number)),
    ],
)
def test_a_coroutine_that_nobody_awaits_ends_the_run(kind: str, function: Any) -> None:
    env = LocalEnvironment("forgotten")
    stream = getattr(env.from_collection([1]), kind)(function, on_error="skip")
    if kind != "sink":
        stream.sink(print)
    says = "returned the coroutine double, which nobody has awaited; await it, in a function that"
    with pytest.raises(TypeError, match=says) as caught:
        env.submit()
    assert isinstance(caught.value, UnawaitedCoroutineError)


def test_a_misspelt_setting_or_argument_is_answered_with_the_right_one() -> None:
    stream = LocalEnvironment("misspelt").from_collection([1])
    with pytest.raises(TypeError, match="did you mean 'max_in_flight' by 'max_inflight'"):
        stream.map(double, max_inflight=3)
    with pytest.raises(TypeError, match="did you mean 'number' by 'numbr'"):
        stream.map(lambda record, number: record + number, numbr=3)
