"""RayEnvironments on a cluster of threads, where messages are lost and processes die."""

from __future__ import annotations

import logging
import pickle
import random
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves it out

import cluster_services as there

from sage.common.core.functions import MapFunction
from sage.kernel.api import (
    FailedRecord,
    RayEnvironment,
    ReplicaDiedError,
    UnawaitedCoroutineError,
    ray_config,
)
from sage.kernel.runtime.checkpoint import UnsupportedPipelineError
from sage.kernel.runtime.cluster.fake_cluster import FakeCluster, FakeRemote, Fault
from sage.kernel.runtime.cluster.operators import chain_service
from sage.kernel.runtime.cluster.operators.chain_service import ChainService
from sage.kernel.runtime.cluster.placement import Placement
from sage.kernel.runtime.cluster.replicas import supervision
from sage.kernel.runtime.cluster.replicas.supervision import Supervision

FAULTS: list[Fault] = ["none", "lost", "answer lost", "dies", "dies after", "hangs"]


class OnThreads(RayEnvironment):
    """A RayEnvironment on a FakeCluster, with three replicas of its service."""

    def __init__(self, name: str, cluster: FakeCluster) -> None:
        super().__init__(name, {"services": {"doubler": {"replicas": 3}}})
        self.register_service("doubler", there.Doubler)
        self.cluster = cluster

    def _join(self, name: str, states: Callable[[], Any]) -> Any:
        self._states[name] = states
        return self.cluster, Placement(self.cluster.nodes())


class Chance:
    """Decides what becomes of each message."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.happened: Counter[Fault] = Counter()

    def __call__(self, _remote: FakeRemote, method: str) -> Fault:
        with self._lock:
            # Each that hangs costs its health_timeout; one that was never heard of ten of them.
            hangs = 1 if method == "submit" and not self.happened["hangs"] else 0
            fault = self._random.choices(FAULTS, [80, 8, 8, 2, 2, hangs])[0]
            self.happened[fault] += 1
        return fault


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have what died begin again at once, as often as it dies, and say nothing of it."""
    quick = partial(Supervision, delays=(0.0, 0.001), most_deaths=1000, poison_from=1000)
    limits = {"health_timeout": 0.1, "close_timeout": 0.1}
    monkeypatch.setattr(ray_config, "Supervision", lambda **given: quick(**{**given, **limits}))
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def through_replicas(env: OnThreads, dead: list[Any]) -> tuple[Any, Any]:
    del dead
    return env.from_collection(range(40)).map(there.Ask), [2 * n for n in range(40)]


def through_workers(env: OnThreads, dead: list[Any]) -> tuple[Any, Any]:
    stream = env.from_collection(range(40)).map(there.add_one, parallelism=2)
    stream = stream.map(there.refuse_sevens, parallelism=2, on_error=dead.append)
    stream = stream.flatmap(there.twice, parallelism=3)
    return stream, [each for n in range(1, 41) if n % 7 for each in (n, -n)]


@pytest.mark.timeout(120)  # on two idle cores each lasts some ten seconds
@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("through", "seeds", "at_once"),
    [(through_replicas, 500, 1.0), (through_workers, 250, 1.0), (through_workers, 100, 0.0)],
)
def test_whatever_fails_each_record_comes_out_once_and_in_order(
    through: Any, seeds: int, at_once: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_service, "_AT_ONCE", at_once)

    def run(seed: int) -> Counter[Fault]:
        chance = Chance(seed)
        cluster = FakeCluster(chance)
        out: list[int] = []
        dead: list[FailedRecord] = []
        with OnThreads(f"seed {seed}", cluster) as env:
            stream, expected = through(env, dead)
            stream.sink(out.append)
            env.submit()
        cluster.close()
        assert out == expected, f"seed {seed}"
        sevens = [n for n in range(1, 41) if n % 7 == 0] if through is through_workers else []
        assert [failed.record for failed in dead] == sevens, f"seed {seed}"
        return chance.happened

    with ThreadPoolExecutor(8) as threads:  # most of the time goes by waiting
        happened = sum(threads.map(run, range(seeds)), Counter[Fault]())
    assert min(happened[fault] for fault in ("lost", "answer lost", "dies", "dies after")) > (
        100 if at_once else 30
    )
    assert happened["hangs"] > 5


def test_a_process_that_was_never_heard_of_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Soon, and yet such that those which are there may be late, as on a busy machine.
    limits = {"health_timeout": 2.0, "close_timeout": 0.1}
    monkeypatch.setattr(ray_config, "Supervision", lambda **own: Supervision(**{**own, **limits}))
    monkeypatch.setattr(supervision, "_WHILE_STARTING", 1)
    cluster = FakeCluster(lambda remote, _: "hangs" if remote.number == 0 else "none")
    with OnThreads("unheard", cluster) as env:
        stream, expected = through_replicas(env, [])
        assert stream.collect() == expected  # it begins when all three are ready
        states = env.metrics().services["doubler"]
    assert len(cluster.remotes) == 4
    assert cluster.remotes[0].dead
    assert [each.deaths for each in states] == [0, 0, 0]


@pytest.mark.parametrize(
    ("seconds", "most", "count"), [(0.0, 256, 20_000), (0.01, 25, 300), (0.1, 2, 20), (0.3, 1, 8)]
)
def test_a_chunk_is_a_quarter_of_a_second_of_work(
    seconds: float, most: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    process_chunk = ChainService.process_chunk

    def noted(self: ChainService, chunk: Any, *rest: int, whole: bool) -> Any:
        sizes.append(len(chunk))
        return process_chunk(self, chunk, *rest, whole=whole)

    def wait(record: int) -> int:
        time.sleep(seconds)
        return record

    monkeypatch.setattr(ChainService, "process_chunk", noted)
    monkeypatch.setattr(chain_service, "_AT_ONCE", 60.0)  # what is given back would count twice
    with OnThreads("chunks", FakeCluster()) as env:
        stream = env.from_collection(range(count)).map(wait, parallelism=2)
        assert stream.collect() == [*range(count)]
    assert max(sizes) <= most
    assert max(sizes) == most or seconds
    assert sum(sizes) == count


def test_what_turns_out_slow_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_at_last(record: int) -> tuple[int, int]:
        time.sleep(0.1 if record >= 2000 else 0)
        return record, threading.get_ident()

    monkeypatch.setattr(chain_service, "_AT_ONCE", 0.05)
    with OnThreads("tail", FakeCluster()) as env:
        stream = env.from_collection(range(2012)).map(slow_at_last, parallelism=4)
        found = stream.collect()
    assert [record for record, _ in found] == [*range(2012)]
    assert len({worker for record, worker in found if record >= 2000}) >= 3


@pytest.mark.parametrize("method", ["map", "filter", "flatmap"])
@pytest.mark.parametrize("on_error", ["raise", "skip", print])
@pytest.mark.parametrize("stop", [SystemExit, KeyboardInterrupt])
def test_what_ends_a_program_ends_the_run(method: str, on_error: Any, stop: Any) -> None:
    """It must not count as a record that failed: what follows it in its chunk was not run."""

    def leave(record: int) -> Any:
        if record == 99:
            raise stop(3)
        return [record]

    out: list[Any] = []
    env = OnThreads("exit", FakeCluster())
    stream = getattr(env.from_collection(range(1000)), method)
    stream(leave, name="leaver", parallelism=2, on_error=on_error).sink(out.append)
    with pytest.raises(stop) as caught:
        env.submit()
    assert caught.value.args == (3,)
    assert env.failure is not None
    assert (env.failure.operator, env.failure.record) == ("leaver", 99)
    assert len(out) == 99


@pytest.mark.parametrize("on_error", ["raise", "skip", print])
def test_what_is_no_records_error_ends_the_chunk(on_error: Any, tmp_path: Path) -> None:
    def look(record: int) -> int:
        if record < 500:  # chunks are of many records by then
            return record
        with (tmp_path / "ran").open("a") as ran:  # the function itself is sent as bytes
            ran.write(f"{record}\n")
        raise UnawaitedCoroutineError("an async def")

    env = OnThreads("look", FakeCluster())
    stream = env.from_collection(range(1000))
    stream.map(look, name="looker", parallelism=2, on_error=on_error).sink(print)
    with pytest.raises(UnawaitedCoroutineError):
        env.submit()
    # One of each of the few chunks that were on their way; the rest of them is hundreds.
    assert 1 <= len((tmp_path / "ran").read_text().split()) <= 20


def test_what_cannot_be_sent_to_workers_says_so() -> None:
    env = OnThreads("lock", FakeCluster())
    lock = threading.Lock()
    env.from_collection([1]).map(lambda n: (n, lock), name="locked", parallelism=2).sink(print)
    with pytest.raises(TypeError, match="cannot pickle") as caught:
        env.submit()
    assert "'locked' runs in other processes" in caught.value.__notes__[0]
    assert "in setup() of operator 'locked'" in caught.value.__notes__


class Connected:
    """Has what belongs to a process."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        self._lock = threading.Lock()


LOCK = threading.Lock()
CONNECTED = Connected()


class Uses(MapFunction):
    def __init__(self, *things: Any) -> None:
        self.things = things

    def execute(self, record: Any) -> Any:
        return record


def using(thing: Any) -> Callable[[int], Any]:
    return lambda n: (n, thing)


@pytest.mark.parametrize(
    ("operator", "said"),
    [
        (lambda env, _: ((lambda n: env.call_service("doubler", n)),), "env.service_manager (S"),
        (lambda env, _: ((lambda n, env=env: n),), "env.service_manager (S"),
        (lambda env, _: (env.service("doubler").double,), "services (S"),
        (lambda _, file: (using(file),), "thing (TextIOWrapper)"),
        (lambda _, __: ((lambda n: (n, LOCK)),), "LOCK (lock)"),
        (lambda _, __: ((lambda n: [CONNECTED for _ in range(n)]),), "CONNECTED.connection (Conn"),
        (lambda _, __: (partial(print, file=LOCK),), "target.keywords['file'] (lock)"),
        (
            lambda _, __: (Uses, 1, {"all": [CONNECTED]}),
            "args[1]['all'][0].connection (Connection)",
        ),
        (lambda _, __: (using(using(LOCK)),), "thing (lock)"),
    ],
)
def test_what_of_a_function_cannot_be_sent_is_named(
    operator: Any, said: str, tmp_path: Path
) -> None:
    env = OnThreads("uses", FakeCluster())
    stream = env.from_collection([1]).map(abs, name="first", parallelism=2)
    with (tmp_path / "file").open("w") as file:
        function, *args = operator(env, file)
        stream.map(function, *args, name="second", parallelism=2).sink(print)
        with pytest.raises((TypeError, pickle.PicklingError)) as caught:
            env.submit()
    note = caught.value.__notes__[0]
    assert note.startswith("operator 'second' runs in other processes, and ")
    assert said in note
    assert "self.call_service()" in note


def test_what_becomes_of_a_record_stays_here() -> None:
    dead: list[Any] = []
    letters = using(LOCK)
    with OnThreads("letters", FakeCluster()) as env:
        stream = env.from_collection(range(10)).map(
            there.refuse_sevens, parallelism=2, on_error=lambda failed: dead.append(letters(failed))
        )
        assert stream.collect() == [1, 2, 3, 4, 5, 6, 8, 9]
    assert [failed.record for failed, _ in dead] == [0, 7]


def test_a_worker_is_called_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = {"delays": (0.0,), "most_deaths": 2}
    monkeypatch.setattr(ray_config, "Supervision", partial(Supervision, **hasty))

    def script(remote: FakeRemote, method: str) -> Fault:
        return "dies" if method == "setup" and remote.number >= 3 else "none"

    env = OnThreads("named", FakeCluster(script))
    env.from_collection(range(20)).map(there.add_one, parallelism=2).sink(print)
    with pytest.raises(ReplicaDiedError, match="a worker of operator 'add_one' died: killed"):
        env.submit()
    assert "a worker of operator 'add_one' is replaced: killed by SIGKILL" in caplog.messages
    assert "a worker of operator 'add_one' is given up: killed by SIGKILL" in caplog.messages
    assert not [each for each in caplog.messages if "service" in each]


class Unreadable:
    """Can be sent, and cannot be read where it arrives."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return int, (f"no number: {self.number}",)


def test_a_record_that_no_worker_can_read_is_its_own_error() -> None:
    dead: list[FailedRecord] = []
    records = [1, Unreadable(2), 3, Unreadable(4), 5]
    with OnThreads("unreadable", FakeCluster()) as env:
        stream = env.from_collection(records)
        found = stream.map(there.add_one, parallelism=2, on_error=dead.append).collect()
        added = env.metrics().operator("add_one")
    assert found == [2, 4, 6]
    assert ["no number: 2" in str(each.error) for each in dead] == [True, False]
    assert all("the record could not be read" in each.error.__notes__[0] for each in dead)
    assert (added.records_in, added.records_out, added.dead_lettered) == (5, 3, 2)


async def add_two(number: int) -> int:
    return number + 2


def test_coroutines_stay_here_with_windows_of_their_own(tmp_path: Path) -> None:
    cluster = FakeCluster()
    with OnThreads("coroutines", cluster) as env:
        found = env.from_collection(range(100)).map(add_two, parallelism=3).collect()
    assert sorted(found) == list(range(2, 102))
    assert not env.metrics().services.keys() - {"doubler"}  # no worker was started
    env = OnThreads("coroutines", cluster)
    env.from_collection(range(100)).map(add_two, parallelism=3).sink(print)
    with pytest.raises(UnsupportedPipelineError, match=r"'add_two'.*parallelism=3"):
        env.submit(checkpoint=tmp_path)
