"""Runs that stop and go on: what reaches the sink, what is processed again, what is refused."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sage.common.core.functions import AsyncMapFunction, SourceFunction, StopSignal
from sage.common.service import BaseService
from sage.kernel.api import DataStream, LocalEnvironment
from sage.kernel.runtime.cancelled import PipelineCancelledError
from sage.kernel.runtime.checkpoint import (
    CheckpointError,
    CheckpointInUseError,
    CheckpointMismatchError,
    DurableSink,
    UnsupportedPipelineError,
)

pytestmark = pytest.mark.usefixtures("each_environment")


class Lines(DurableSink):
    """Writes a line per record; its state is how many."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []

    def begin(self, state: int | None) -> None:
        lines = self.path.read_text().splitlines() if state else []
        assert len(lines) >= (state or 0)
        self.lines = lines[:state]

    def state(self) -> int:
        return len(self.lines)

    def sync(self) -> None:
        self.path.write_text("".join(f"{line}\n" for line in self.lines))

    def finish(self) -> None:
        self.sync()
        (self.path.parent / "finished").touch()

    def execute(self, record: Any) -> None:
        self.lines.append(str(record))


class Later(AsyncMapFunction):
    """Hands records to threads, so that they complete in any order."""

    max_in_flight = 8

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work
        self.pool = ThreadPoolExecutor(4)

    def submit(self, record: Any) -> Future[Any]:
        return self.pool.submit(self.work, record)

    def cleanup(self) -> None:
        self.pool.shutdown()


async def is_kept(number: int) -> bool:
    await asyncio.sleep(0)
    return number % 10 != 3


async def repeated(number: int) -> list[int]:
    await asyncio.sleep(0)
    return [number] * (number % 3)


class Job:
    """One pipeline that is submitted again and again; ``seen`` is what its map has worked on."""

    def __init__(self, folder: Path, mapped: str = "map") -> None:
        self.folder, self.mapped = folder, mapped
        self.source: Callable[[], Iterable[int]] = lambda: range(100)
        self.seen: list[int] = []
        self.poison: set[int] = set()
        self.dead: list[int] = []
        self.on_error: Any = "raise"

    def work(self, record: int) -> int:
        if record in self.poison:
            raise ValueError(f"poison {record}")
        self.seen.append(record)
        return record

    async def work_on_loop(self, record: int) -> int:
        await asyncio.sleep(0)
        return self.work(record)

    def records(self) -> Iterator[int]:
        yield from self.source()

    def mapping(self, env: LocalEnvironment) -> DataStream:
        how: tuple[Any, ...] = {
            "map": (self.work,),
            "parallel map": (self.work,),
            "async map": (Later, self.work),
            "coroutine": (self.work_on_loop,),
            "coroutines": (self.work_on_loop,),
        }[self.mapped]
        several = 2 if self.mapped == "parallel map" else 1
        records = env.from_source(self.records)
        return records.map(*how, parallelism=several, on_error=self.on_error)

    def environment(self) -> LocalEnvironment:
        env = LocalEnvironment("job")
        stream = self.mapping(env)
        if self.mapped == "coroutines":
            stream = stream.filter(is_kept).flatmap(repeated)
        else:
            stream = stream.filter(lambda x: x % 10 != 3).flatmap(lambda x: [x] * (x % 3))
        stream.sink(Lines, self.folder / "out")
        return env

    def submit(self) -> None:
        self.environment().submit(checkpoint=self.folder / "checkpoint")

    @property
    def lines(self) -> list[int]:
        return [int(line) for line in (self.folder / "out").read_text().split()]

    @property
    def expected(self) -> list[int]:
        skipped = self.poison
        kept = [x for x in range(100) if x not in skipped and x % 10 != 3]
        return [x for x in kept for _ in range(x % 3)]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


@pytest.fixture(params=["map", "async map", "coroutine"])
def each_job(tmp_path: Path, request: pytest.FixtureRequest) -> Job:
    return Job(tmp_path, request.param)


def test_a_run_goes_on_behind_the_record_that_stopped_it(each_job: Job) -> None:
    each_job.poison = {41}
    with pytest.raises(ValueError, match="poison 41"):
        each_job.submit()
    assert not (each_job.folder / "finished").exists()
    assert each_job.lines == [x for x in each_job.expected if x < 41]
    each_job.poison, each_job.seen = set(), []
    each_job.submit()
    assert sorted(each_job.seen) == list(range(41, 100))
    assert each_job.lines == each_job.expected
    assert (each_job.folder / "finished").exists()


def test_coroutines_behind_each_other_go_on_too(tmp_path: Path) -> None:
    job = Job(tmp_path, "coroutines")
    for poison in (7, 41, 80):
        job.poison = {poison}
        with pytest.raises(ValueError, match=f"poison {poison}"):
            job.submit()
        assert not (tmp_path / "finished").exists()
    job.poison = set()
    job.submit()
    assert job.lines == job.expected
    assert (tmp_path / "finished").exists()


def test_it_may_stop_often(each_job: Job) -> None:
    for poison in (0, 1, 17, 18, 63, 99):
        each_job.poison = {poison}
        with pytest.raises(ValueError, match=rf"poison {poison}\n"):
            each_job.submit()
    each_job.poison = set()
    each_job.submit()
    assert each_job.lines == each_job.expected


@pytest.mark.parametrize("each_environment", ["ray"], indirect=True)
def test_workers_keep_the_order_so_that_it_may_stop_often_too(tmp_path: Path) -> None:
    job = Job(tmp_path, "parallel map")
    for poison in (0, 18, 63):
        job.poison = {poison}
        with pytest.raises(ValueError, match=rf"poison {poison}\n"):
            job.submit()
    job.poison, job.on_error = {99}, lambda failed: job.dead.append(failed.record)
    job.submit()
    assert (job.lines, job.dead) == (job.expected, [99])


def test_all_records_are_committed_before_the_output_is_published(each_job: Job) -> None:
    """So that a kill in between lets the sink find what the checkpoint has counted."""
    positions = []

    class Looking(Lines):
        def finish(self) -> None:
            # The run's own connection holds the file; what it has committed is in its log.
            for file in (each_job.folder / "checkpoint").iterdir():
                (each_job.folder / file.name).write_bytes(file.read_bytes())
            with closing(sqlite3.connect(each_job.folder / "checkpoint.sqlite")) as copy:
                rows = dict(copy.execute("SELECT key, value FROM checkpoint"))
            positions.append((rows["position"], rows["states"], rows["complete"]))

    env = LocalEnvironment("finish")
    stream = each_job.mapping(env).filter(lambda x: x < 90)
    stream.sink(Looking, each_job.folder / "out")
    env.submit(checkpoint=each_job.folder / "checkpoint")
    assert positions == [("100", '{"3": 90}', "false")]


def test_a_complete_run_does_nothing_and_opens_no_service(job: Job) -> None:
    opened: list[bool] = []

    class Service(BaseService):
        def setup(self) -> None:
            opened.append(True)

        def process(self, payload: Any) -> Any:
            return payload

    for _ in range(3):
        env = job.environment()
        env.register_service("service", Service)
        env.submit(autostop=False, checkpoint=job.folder / "checkpoint")
        env.wait()
        env.close()
    assert opened == [True]
    assert job.seen == list(range(100))
    assert job.lines == job.expected


def test_an_error_of_the_source_stops_a_run_that_then_goes_on(each_job: Job) -> None:
    def failing() -> Iterator[int]:
        yield from range(30)
        raise OSError("the source is gone")

    each_job.source = failing
    with pytest.raises(OSError, match="the source is gone"):
        each_job.submit()
    each_job.source = lambda: range(100)
    each_job.submit()
    assert each_job.lines == each_job.expected
    assert set(each_job.seen) == set(range(100))


def test_skipped_records_are_done(each_job: Job) -> None:
    each_job.poison, each_job.on_error = {5, 50, 95}, "skip"
    stopped: list[bool] = []

    def stopping_once() -> Iterator[int]:
        for number in range(100):
            if number == 70 and not stopped:
                stopped.append(True)
                raise OSError("cut")
            yield number

    each_job.source = stopping_once
    with pytest.raises(OSError, match="cut"):
        each_job.submit()
    each_job.submit()
    assert each_job.lines == each_job.expected


def test_dead_letters_come_once_each(each_job: Job) -> None:
    each_job.poison = {5, 50, 51, 95}
    each_job.on_error = lambda failed: each_job.dead.append(failed.record)
    stop_at = [52, 96]

    class Stopping(Lines):
        def execute(self, record: Any) -> None:
            if stop_at and record >= stop_at[0]:
                stop_at.pop(0)
                raise OSError("full")
            super().execute(record)

    def run() -> None:
        env = LocalEnvironment("dead letters")
        each_job.mapping(env).sink(Stopping, each_job.folder / "out")
        env.submit(checkpoint=each_job.folder / "checkpoint")

    for _ in range(2):
        with pytest.raises(OSError, match="full"):
            run()
    run()
    assert each_job.dead == [5, 50, 51, 95]
    assert each_job.lines == [x for x in range(100) if x not in each_job.poison]


def test_durable_dead_letters_come_back_to_where_they_were(tmp_path: Path) -> None:
    class Dead(Lines):
        def execute(self, record: Any) -> None:
            super().execute(record.record)

    def odd(record: int) -> int:
        if record % 2:
            raise ValueError("odd")
        return record

    broken = {20, 44}

    def break_down(record: int) -> int:
        if record in broken:
            broken.remove(record)
            raise OSError(f"broken at {record}")
        return record

    def run() -> None:
        env = LocalEnvironment("dead")
        stream = env.from_collection(range(50)).map(odd, on_error=partial(Dead, tmp_path / "dead"))
        stream.map(Later, break_down).sink(Lines, tmp_path / "out")
        env.submit(checkpoint=tmp_path / "checkpoint")

    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            run()
    run()
    assert (tmp_path / "dead").read_text().split() == [str(x) for x in range(1, 50, 2)]
    assert (tmp_path / "out").read_text().split() == [str(x) for x in range(0, 50, 2)]


def test_a_sink_that_fails_within_a_flatmap_gets_no_output_twice(tmp_path: Path) -> None:
    fail = [True]

    class Failing(Lines):
        def execute(self, record: Any) -> None:
            if record == (7, 2) and fail:
                fail.clear()
                raise OSError("full")
            super().execute(record)

    def run() -> None:
        env = LocalEnvironment("flat")
        stream = env.from_collection(range(10)).flatmap(lambda x: [(x, i) for i in range(4)])
        stream.sink(Failing, tmp_path / "out")
        env.submit(checkpoint=tmp_path / "checkpoint")

    with pytest.raises(OSError, match="full"):
        run()
    run()
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines == [str((x, i)) for x in range(10) for i in range(4)]


def test_a_stopped_run_goes_on_and_is_not_complete_before(job: Job) -> None:
    envs: list[LocalEnvironment] = []

    def work(record: int) -> int:
        if record == 20:
            envs[-1].stop()
        return record

    def environment() -> LocalEnvironment:
        env = LocalEnvironment("stopped")
        env.from_collection(range(100)).map(work).sink(Lines, job.folder / "out")
        envs.append(env)
        return env

    environment().submit(checkpoint=job.folder / "checkpoint")
    assert job.lines == list(range(21))
    assert not (job.folder / "finished").exists()
    environment().submit(checkpoint=job.folder / "checkpoint")
    assert job.lines == list(range(100))


def test_a_closed_run_goes_on(job: Job) -> None:
    reached, closing = threading.Event(), threading.Event()

    def work(record: int) -> int:
        if record == 20 and not closing.is_set():
            reached.set()
            while env.metrics().state == "running":
                closing.wait(0.01)
            closing.set()
        return record

    def environment() -> LocalEnvironment:
        env = LocalEnvironment("closed")
        env.from_collection(range(100)).map(work).sink(Lines, job.folder / "out")
        return env

    env = environment()
    env.submit(autostop=False, checkpoint=job.folder / "checkpoint")
    assert reached.wait(10)
    env.close()
    with pytest.raises(PipelineCancelledError):
        env.wait()
    environment().submit(checkpoint=job.folder / "checkpoint")
    assert job.lines == list(range(100))


def test_a_source_that_can_skip_is_asked_to(tmp_path: Path) -> None:
    skipped: list[int] = []

    class Numbers(SourceFunction):
        number = 0

        def skip(self, count: int) -> None:
            skipped.append(count)
            self.number = count

        def execute(self) -> Any:
            self.number += 1
            return self.number if self.number <= 10 else StopSignal()

    broken = [True]

    def break_down(record: int) -> int:
        if record == 7 and broken:
            raise OSError(broken.pop())
        return record

    for _ in range(2):
        env = LocalEnvironment("skip")
        env.from_source(Numbers).map(break_down).sink(Lines, tmp_path / "out")
        if broken:
            with pytest.raises(OSError, match="True"):
                env.submit(checkpoint=tmp_path / "checkpoint")
        else:
            env.submit(checkpoint=tmp_path / "checkpoint")
    assert skipped == [6]
    assert (tmp_path / "out").read_text().split() == [str(x) for x in range(1, 11)]


def test_a_source_with_fewer_records_than_are_done_is_refused(job: Job) -> None:
    job.poison = {41}
    with pytest.raises(ValueError, match="poison"):
        job.submit()
    job.source = lambda: range(9)
    with pytest.raises(CheckpointError, match="41 records are done, and the source now has only 9"):
        job.submit()


def test_a_checkpoint_of_another_pipeline_is_refused(job: Job) -> None:
    job.submit()
    env = LocalEnvironment("other")
    job.mapping(env).map(str).sink(Lines, job.folder / "out")
    with pytest.raises(CheckpointMismatchError, match=r"operator 2 \(str\) has kind map, not"):
        env.submit(checkpoint=job.folder / "checkpoint")


def test_a_checkpoint_with_nothing_done_is_taken_over(job: Job) -> None:
    job.poison = {0}
    with pytest.raises(ValueError, match="poison 0"):
        job.submit()
    out: list[Any] = []
    env = LocalEnvironment("other")
    env.from_collection([1, 2]).sink(out.append)
    env.submit(checkpoint=job.folder / "checkpoint")
    assert out == [1, 2]


def test_a_second_run_on_a_checkpoint_is_refused_while_the_first_goes_on(job: Job) -> None:
    arrived, gate = threading.Event(), threading.Event()

    def waiting() -> Iterator[int]:
        arrived.set()
        gate.wait(10)
        yield from range(100)

    job.source = waiting
    env = job.environment()
    env.submit(autostop=False, checkpoint=job.folder / "checkpoint")
    assert arrived.wait(10)
    with pytest.raises(CheckpointInUseError, match="another run is using it"):
        job.submit()
    gate.set()
    env.wait()
    env.close()
    assert job.lines == job.expected


def _no_op(record: Any) -> None: ...


class Unordered(Later):
    ordered = False


SHAPES: dict[str, Callable[[LocalEnvironment], Any]] = {
    "2 sources": lambda env: [env.from_collection([1]).sink(_no_op) for _ in range(2)],
    "goes to": lambda env: env.from_collection([1]).sink(_no_op).sink(_no_op),
    "parallelism=2": lambda env: env.from_collection([1]).map(str, parallelism=2),
    "keyby": lambda env: env.from_collection([1]).keyby(str).sink(_no_op),
    "ordered=False": lambda env: env.from_collection([1]).map(Unordered, str).sink(_no_op),
}


@pytest.mark.parametrize("each_environment", ["local"], indirect=True)  # a cluster keeps order
@pytest.mark.parametrize("shape", SHAPES)
def test_what_cannot_be_resumed_is_refused(tmp_path: Path, shape: str) -> None:
    env = LocalEnvironment("shape")
    SHAPES[shape](env)
    with pytest.raises(UnsupportedPipelineError, match=f"{shape}.*one source"):
        env.submit(checkpoint=tmp_path / "checkpoint")


def test_a_file_that_is_no_checkpoint_is_named(job: Job) -> None:
    (job.folder / "checkpoint").mkdir()
    (job.folder / "checkpoint" / "checkpoint.sqlite").write_text("not a database" * 100)
    with pytest.raises(CheckpointError, match="not a database; delete the folder to begin anew"):
        job.submit()


def test_a_checkpoint_without_room_is_refused_before_any_record_moves(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own bound on the size of a file stands for a full disk."""
    connect = sqlite3.connect
    bounded = True

    def connect_bounded(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        if bounded:
            connection.execute("PRAGMA max_page_count = 1")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_bounded)
    with pytest.raises(CheckpointError, match=r"cannot be opened: database or disk is full$"):
        job.submit()
    assert job.seen == []
    bounded = False
    job.submit()
    assert job.lines == job.expected


def test_a_sink_that_is_not_durable_gets_every_record_in_order(tmp_path: Path) -> None:
    out: list[int] = []
    broken = [30, 60]

    def sink(record: int) -> None:
        if broken and record == broken[0]:
            raise OSError(broken.pop(0))
        out.append(record)

    def run() -> None:
        env = LocalEnvironment("plain")
        env.from_collection(range(100)).sink(sink)
        env.submit(checkpoint=tmp_path)

    for _ in range(2):
        with pytest.raises(OSError, match="0"):
            run()
    run()
    assert out == list(range(100))


def test_a_durable_sink_without_a_checkpoint_finishes_only_a_whole_run(job: Job) -> None:
    job.poison = {41}
    with pytest.raises(ValueError, match="poison"):
        job.environment().submit()
    assert not (job.folder / "out").exists()
    job.poison = set()
    job.environment().submit()
    assert job.lines == job.expected


@pytest.mark.parametrize("by", ["another thread", "a function of the pipeline"])
def test_a_durable_sink_does_not_finish_what_stop_cut_short(job: Job, by: str) -> None:
    env = LocalEnvironment("endless")
    enough = threading.Event()

    def work(record: int) -> int:
        if record == 20:
            enough.set()
            if by == "a function of the pipeline":
                env.stop()
        return record

    job.source = count
    env.from_source(job.records).map(work).sink(Lines, job.folder / "out")
    env.submit(autostop=False)
    assert enough.wait(10)
    env.stop()
    assert env.metrics().state == "ended"
    assert not (job.folder / "finished").exists()


def test_a_durable_sink_finishes_what_stop_found_at_the_end_of_its_source(job: Job) -> None:
    source_ended, gate = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        yield from range(5)
        source_ended.set()

    def work(record: int) -> int:
        assert gate.wait(10)
        return record

    env = LocalEnvironment("ended")
    env.from_source(source).map(Later, work).sink(Lines, job.folder / "out")
    env.submit(autostop=False)
    assert source_ended.wait(10)
    threading.Timer(0.1, gate.set).start()
    env.stop()
    assert (job.folder / "finished").exists()
    assert job.lines == list(range(5))


def test_a_durable_sink_is_not_run_in_parallel(tmp_path: Path) -> None:
    env = LocalEnvironment("parallel")
    env.from_collection([1]).sink(Lines, tmp_path / "out", parallelism=2)
    with pytest.raises(ValueError, match="writes one output, and sink 'Lines' has parallelism=2"):
        env.submit()
