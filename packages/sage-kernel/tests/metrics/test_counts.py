"""What metrics() counts: exact under every choice of on_error, for every kind of operator."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from sage.common.core.errors import SageError
from sage.common.core.functions import AsyncMapFunction, MapFunction
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.metrics.run_metrics import OperatorMetrics

pytestmark = pytest.mark.usefixtures("each_environment")

RECORDS = 1000
POISON = frozenset(range(7, RECORDS, 20))  # 5 %


class PoisonError(Exception):
    pass


def check(record: int) -> int:
    if record in POISON:
        raise PoisonError(record)
    return record


def done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


class FailsToSubmit(AsyncMapFunction):
    def submit(self, record: int) -> Future[int]:
        return done(check(record))


class FutureFails(AsyncMapFunction):
    def submit(self, record: int) -> Future[int]:
        future: Future[int] = Future()
        try:
            future.set_result(check(record))
        except PoisonError as error:
            future.set_exception(error)
        return future


class FailsToComplete(AsyncMapFunction):
    def submit(self, record: int) -> Future[int]:
        return done(record)

    def complete(self, record: int, result: int) -> int:
        return check(result)


class Unordered(FutureFails):
    ordered = False


GOOD = RECORDS - len(POISON)
EVEN = len([record for record in range(RECORDS) if record % 2 == 0 and record not in POISON])
# how to attach it, and how many records come out of it without the poisoned ones
OPERATORS: dict[str, tuple[str, Callable[..., Any], int, int]] = {
    "map": ("map", check, 1, GOOD),
    "filter": ("filter", lambda record: check(record) % 2 == 0, 1, EVEN),
    "flatmap": ("flatmap", lambda record: [check(record)] * 3, 1, 3 * GOOD),
    "keyby": ("keyby", check, 1, GOOD),
    "async submit": ("map", FailsToSubmit, 1, GOOD),
    "async future": ("map", FutureFails, 1, GOOD),
    "async complete": ("map", FailsToComplete, 1, GOOD),
    "async unordered": ("map", Unordered, 1, GOOD),
    "parallel map": ("map", check, 3, GOOD),
    "parallel filter": ("filter", lambda record: check(record) % 2 == 0, 3, EVEN),
    "parallel flatmap": ("flatmap", lambda record: [check(record)] * 3, 3, 3 * GOOD),
    "parallel async": ("map", FutureFails, 3, GOOD),
}
every_operator = pytest.mark.parametrize(
    ("method", "function", "parallelism", "emitted"), OPERATORS.values(), ids=OPERATORS
)


def pipeline(
    method: str, function: Callable[..., Any], parallelism: int, **options: Any
) -> tuple[LocalEnvironment, list[Any]]:
    env = LocalEnvironment("counted")
    out: list[Any] = []
    stream = env.from_collection(range(RECORDS), name="read").map(abs, name="before")
    stream = getattr(stream, method)(function, name="it", parallelism=parallelism, **options)
    stream.map(str, name="after").sink(out.append, name="write")
    return env, out


@every_operator
@pytest.mark.parametrize("dead_letters", [False, True])
def test_five_percent_poison_is_counted_exactly(
    method: str,
    function: Callable[..., Any],
    parallelism: int,
    emitted: int,
    *,
    dead_letters: bool,
) -> None:
    letters: list[Any] = []
    on_error = letters.append if dead_letters else "skip"
    env, out = pipeline(method, function, parallelism, on_error=on_error)
    env.submit()
    metrics = env.metrics()
    it = metrics.operator("it")
    assert (it.records_in, it.records_out, len(out)) == (RECORDS, emitted, emitted)
    assert (it.skipped, it.dead_lettered) == ((0, 50) if dead_letters else (50, 0))
    assert {letter.record for letter in letters} == (POISON if dead_letters else set())
    assert [metrics.operator(name).records_in for name in ("read", "before", "after", "write")] == [
        0,
        RECORDS,
        emitted,
        emitted,
    ]
    assert metrics.operator("write").records_out == emitted
    assert all(o.waiting == o.in_flight == o.failed == 0 for o in metrics.operators)
    assert (metrics.state, metrics.errors, metrics.done, metrics.length) == (
        "ended",
        50,
        1000,
        1000,
    )
    assert metrics.time_left is None


@every_operator
def test_the_record_that_stops_a_pipeline_is_counted(
    method: str, function: Callable[..., Any], parallelism: int, emitted: int
) -> None:
    env, out = pipeline(method, function, parallelism)
    with pytest.raises(PoisonError):
        env.submit()
    metrics = env.metrics()
    it = metrics.operator("it")
    assert metrics.state == "failed"
    assert 1 <= it.failed <= parallelism
    assert it.errors == it.failed
    written = metrics.operator("write")
    assert written.records_out == len(out)
    if not isinstance(function, type) and parallelism == 1:  # all on one thread
        assert metrics.operator("read").records_out == it.records_in == 8
        assert it.finished == 8
        assert it.records_out == written.records_in == len(out)


def test_a_failing_sink_counts_in_front_of_the_branch_that_got_nothing() -> None:
    env = LocalEnvironment("branches")
    stream = env.from_collection(range(RECORDS), name="read")
    stream.sink(check, name="first").sink(lambda _: None, name="second")
    with pytest.raises(PoisonError):
        env.submit()
    first, second = env.metrics().operator("first"), env.metrics().operator("second")
    assert (first.records_in, first.records_out, first.failed) == (8, 7, 1)
    assert (second.records_in, second.records_out, second.failed) == (7, 7, 0)


def test_unions_branches_and_keys_are_counted() -> None:
    env = LocalEnvironment("shapes")
    left = env.from_collection(range(100), name="left")
    right = env.from_collection(range(200), name="right")
    merged = left.union(right, right)
    merged.filter(lambda x: x < 10, name="few").sink(lambda _: None, name="small")
    keyed = merged.keyby(lambda x: x % 5, name="key", parallelism=2)
    keyed.map(str, name="each", parallelism=3).sink(lambda _: None, name="all")
    env.submit()
    metrics = env.metrics()
    flow = {
        o.name: (o.records_in, o.records_out, o.waiting, o.in_flight) for o in metrics.operators
    }
    assert flow == {
        "left": (0, 100, 0, 0),
        "right": (0, 200, 0, 0),
        "union": (500, 500, 0, 0),
        "few": (500, 30, 0, 0),
        "small": (30, 30, 0, 0),
        "key": (500, 500, 0, 0),
        "each": (500, 500, 0, 0),
        "all": (500, 500, 0, 0),
    }
    assert (metrics.done, metrics.length) == (300, 300)


def test_retries_are_counted() -> None:
    class BusyError(SageError):
        retryable = True

    class Flaky(AsyncMapFunction):
        retries = 2
        retry_backoff = 0.001

        def __init__(self) -> None:
            self.seen: set[int] = set()

        def submit(self, record: int) -> Future[int]:
            if record % 10 == 0 and record not in self.seen:
                self.seen.add(record)
                raise BusyError("not yet")
            return done(record)

    env = LocalEnvironment("retries")
    env.from_collection(range(100)).map(Flaky, name="flaky")
    env.submit()
    flaky = env.metrics().operator("flaky")
    assert (flaky.records_in, flaky.records_out, flaky.retries, flaky.errors) == (100, 100, 10, 0)


class Held(AsyncMapFunction):
    """Completes nothing until its gate opens."""

    max_in_flight = 7

    def __init__(self, taken: threading.Semaphore, gate: threading.Event) -> None:
        self.taken, self.gate, self.futures = taken, gate, []  # type: ignore[var-annotated]  # a test

    def submit(self, record: int) -> Future[int]:
        future: Future[int] = Future()
        threading.Thread(target=self._complete, args=(future, record), daemon=True).start()
        self.taken.release()
        return future

    def _complete(self, future: Future[int], record: int) -> None:
        assert self.gate.wait(10)
        future.set_result(record)


def test_what_is_in_flight_of_an_async_operator_is_seen_and_not_taken_for_done() -> None:
    taken, gate = threading.Semaphore(0), threading.Event()
    env = LocalEnvironment("held")
    env.from_collection(range(20), name="read").map(Held, taken, gate, name="held")
    env.submit(autostop=False)
    for _ in range(7):
        assert taken.acquire(timeout=10)
    held = env.metrics().operator("held")
    assert (held.records_in, held.in_flight, held.records_out) == (7, 7, 0)
    assert (env.metrics().state, env.metrics().done, env.metrics().time_left) == (
        "running",
        0,
        None,
    )
    gate.set()
    env.wait()
    env.close()
    held = env.metrics().operator("held")
    assert (held.records_in, held.in_flight, held.records_out) == (20, 0, 20)


@pytest.mark.parametrize("each_environment", ["local"], indirect=True)  # a worker has no gate of it
def test_what_replicas_are_at_and_what_waits_for_them_is_seen() -> None:
    gate, busy = threading.Event(), threading.Semaphore(0)

    def work(record: int) -> int:
        busy.release()
        assert gate.wait(10)
        return record

    read = threading.Event()

    def source() -> Iterator[int]:
        yield from range(10)
        read.set()

    env = LocalEnvironment("busy")
    env.from_source(source).map(work, name="work", parallelism=3).sink(lambda _: None)
    env.submit(autostop=False)
    for _ in range(3):
        assert busy.acquire(timeout=10)
    assert read.wait(10)
    work_ = env.metrics().operator("work")
    assert (work_.records_in, work_.in_flight, work_.waiting, work_.records_out) == (3, 3, 7, 0)
    gate.set()
    env.stop()
    assert env.metrics().operator("work").records_out == 10


@pytest.mark.parametrize("each_environment", ["local"], indirect=True)  # it lasts
def test_counts_only_grow_while_a_pipeline_runs() -> None:
    seen: list[list[OperatorMetrics]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            seen.append(list(env.metrics().operators))

    env = LocalEnvironment("watched")
    stream = env.from_collection(range(30_000)).map(abs, parallelism=2).filter(bool)
    stream.flatmap(lambda x: (x, x)).map(FailsToComplete, on_error="skip").sink(lambda _: None)
    watcher = threading.Thread(target=watch)
    watcher.start()
    env.submit()
    ended.set()
    watcher.join(10)
    seen.append(list(env.metrics().operators))
    assert len(seen) > 2
    for name in ("records_in", "records_out", "finished", "skipped"):
        for index in range(len(seen[0])):
            values = [getattr(operators[index], name) for operators in seen]
            assert values == sorted(values), (name, seen[0][index].name)


# -- states ---------------------------------------------------------------------------------------


def test_metrics_before_a_run_are_empty_and_after_it_final() -> None:
    env, _ = pipeline("map", abs, 1)
    before = env.metrics()
    assert (before.state, before.elapsed, before.length, before.done) == ("new", 0.0, None, 0)
    assert [(o.name, o.kind, o.records_out) for o in before.operators] == [
        ("read", "source", 0),
        ("before", "map", 0),
        ("it", "map", 0),
        ("after", "map", 0),
        ("write", "sink", 0),
    ]
    env.submit()
    after = env.metrics()
    assert after.elapsed > 0
    assert after == env.metrics()
    assert after.operator("it").rate == pytest.approx(RECORDS / after.elapsed)
    assert pickle.loads(pickle.dumps(after)) == after


def test_a_run_whose_setup_fails_has_failed_with_nothing_done() -> None:
    class Refuses(MapFunction):
        def setup(self) -> None:
            raise OSError("no device")

        def execute(self, record: Any) -> Any:
            return record

    env = LocalEnvironment("refused")
    env.from_collection([1, 2]).map(Refuses)
    with pytest.raises(OSError, match="no device"):
        env.submit()
    assert (env.metrics().state, env.metrics().elapsed, env.metrics().done) == ("failed", 0.0, 0)


def test_a_source_that_raises_is_counted() -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise OSError("the disk is gone")

    env = LocalEnvironment("source")
    env.from_source(source, name="disk").sink(lambda _: None, name="write")
    with pytest.raises(OSError, match="the disk is gone"):
        env.submit()
    disk, write = env.metrics().operator("disk"), env.metrics().operator("write")
    assert (disk.records_out, disk.failed, write.records_out) == (5, 1, 5)


def test_a_closed_run_is_cancelled_and_its_clock_stands() -> None:
    env = LocalEnvironment("closed")
    env.from_source(lambda: 1).sink(lambda _: env.close())
    with pytest.raises(PipelineCancelledError):
        env.submit()
    assert env.metrics().state == "cancelled"
    assert env.metrics() == env.metrics()


def test_an_unknown_operator_is_an_error_that_names_the_nearest() -> None:
    env, _ = pipeline("map", abs, 1)
    with pytest.raises(LookupError, match=r"no operator 'writ'; .*'write'"):
        env.metrics().operator("writ")
