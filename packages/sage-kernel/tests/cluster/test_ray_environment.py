"""Services and workers of pipelines on a real Ray cluster: one machine that calls itself two."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # importlib mode leaves it out, and the workers have it too

import cluster_services as there  # noqa: E402 - needs the path above
from cluster_processes import until  # noqa: E402

from sage.common.service import ServiceMethodNotFoundError  # noqa: E402
from sage.kernel.api import (  # noqa: E402
    FailedRecord,
    LocalEnvironment,
    PlacementError,
    RayEnvironment,
    ReplicaStatus,
    StreamBrokenError,
    WorkerDiedError,
)

# A machine that is busy starts Ray in half a minute, and a process of it in some seconds.
pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("ray_cluster")]

ONE = {"services": {"doubler": {"replicas": 1}}}
TWO = {"services": {"doubler": {"replicas": 2}}}


def replicas(env: RayEnvironment, name: str = "doubler") -> tuple[ReplicaStatus, ...]:
    return env.metrics().services[name]


# -- services -------------------------------------------------------------------------------------


def test_a_pipeline_with_its_service_on_the_cluster() -> None:
    doubled: list[int] = []
    with RayEnvironment("label", TWO) as env:
        env.register_service("doubler", there.Doubler)
        env.from_collection(range(500)).map(there.Ask).sink(doubled.append)
        env.submit()
        assert doubled == [2 * n for n in range(500)]
        metrics = env.metrics()
        assert [each.state for each in metrics.services["doubler"]] == ["closed"] * 2
        assert sum(each.finished for each in metrics.services["doubler"]) == 500
        assert len({each.node for each in metrics.services["doubler"]}) == 2


def test_calls_from_outside_errors_and_what_a_process_has() -> None:
    with RayEnvironment("calls", {"services": {"doubler": {"replicas": 1, "cpus": 3}}}) as env:
        env.register_service("doubler", there.Doubler)
        doubler = env.service("doubler")
        assert doubler.double(4) == 8
        assert doubler.process_id() != os.getpid()
        assert doubler.environment("OMP_NUM_THREADS") == "3"
        with pytest.raises(ServiceMethodNotFoundError, match="did you mean 'double'"):
            doubler.dubble(1)
        with pytest.raises(TypeError, match="unsupported operand"):
            doubler.double(None)


def test_an_answer_comes_in_pieces_until_its_replica_dies() -> None:
    with RayEnvironment("pieces", ONE) as env:
        env.register_service("doubler", there.Counter)
        stream = env.service("doubler").count(1000)
        assert [stream.queue.get(timeout=20) for _ in range(1000)] == list(range(1000))
        assert stream.future.result(20) == 1000
        stream = env.service("doubler").count(5, last=2)
        assert [stream.queue.get(timeout=20) for _ in range(3)] == [0, 1, 2]
        os.kill(env.service("doubler").process_id(), signal.SIGKILL)
        with pytest.raises(StreamBrokenError, match="3 had come"):
            stream.future.result(20)
        assert stream.queue.empty()
        assert env.service("doubler").double(4, timeout=30) == 8


def test_a_setup_error_keeps_its_type_and_says_on_which_machine() -> None:
    env = RayEnvironment("broken", TWO)
    env.register_service("doubler", there.Doubler, fault="setup")
    env.from_collection([1]).map(there.Ask).sink(print)
    with pytest.raises(LookupError, match="no weights here") as caught:
        env.submit()
    assert any("while starting service 'doubler' on" in note for note in caught.value.__notes__)


def test_a_module_that_a_machine_lacks_is_named_with_the_way_to_bring_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def add(n):\n    return n + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    function = importlib.import_module("only_here").add
    env = RayEnvironment("module")
    env.from_collection([1]).map(function, parallelism=2).sink(print)
    with pytest.raises(ModuleNotFoundError, match="only_here") as caught:
        env.submit()
    assert any("'working_dir'" in note for note in caught.value.__notes__)


def test_what_no_machine_holds_is_refused_before_a_record_moves() -> None:
    read: list[int] = []
    env = RayEnvironment("large", {"services": {"doubler": {"gpus": 4}}})
    env.register_service("doubler", there.TwoGPUs)
    env.from_collection([1]).map(read.append).map(there.Ask).sink(print)
    with pytest.raises(PlacementError, match="needs 4 GPUs and 1 CPU of one machine") as caught:
        env.submit()
    assert str(caught.value).count("2 GPUs") == 2
    assert read == []


def test_all_gpus_are_taken_two_by_two_each_pair_of_one_machine() -> None:
    with RayEnvironment("gpus") as env:
        env.register_service("doubler", there.TwoGPUs)
        gpus = env.call_service("doubler", "CUDA_VISIBLE_DEVICES", method="environment")
        assert sorted(gpus.split(",")) == ["0", "1"]
        until(lambda: [each.state for each in replicas(env)] == ["ready", "ready"])
        assert len({each.node for each in replicas(env)}) == 2


def test_replicas_that_are_killed_lose_and_double_nothing() -> None:
    doubled: list[int] = []
    with RayEnvironment("killed", TWO) as env:
        env.register_service("doubler", there.Slow)
        env.from_collection(range(1500)).map(there.Ask).sink(doubled.append)
        env.submit(autostop=False)
        for done in (200, 600, 1000):
            until(lambda done=done: len(doubled) > done)  # type: ignore[misc]
            until(lambda: any(each.state == "ready" for each in replicas(env)))
            up = [each for each in replicas(env) if each.state == "ready" and each.process]
            deaths = sum(each.deaths for each in replicas(env))
            os.kill(up[0].process or 0, signal.SIGKILL)
            # Or the next kill may be of the same process.
            until(lambda deaths=deaths: sum(each.deaths for each in replicas(env)) > deaths)  # type: ignore[misc]
        env.wait()
        assert doubled == [2 * n for n in range(1500)]
        assert sum(each.deaths for each in replicas(env)) == 3


def test_a_stopped_replica_is_replaced_in_time_and_heard_no_more(
    held_up: Callable[[], float],
) -> None:
    config = {"services": {"doubler": {"replicas": 1, "health_timeout": 1.0}}}
    doubled: list[int] = []
    with RayEnvironment("stopped", config) as env:
        env.register_service("doubler", there.Slower)  # so that there are more when it stops
        env.from_collection(range(600)).map(there.Ask).sink(doubled.append)
        env.submit(autostop=False)
        until(lambda: len(doubled) > 100)
        until(lambda: replicas(env)[0].state == "ready")
        (before,), heard = replicas(env), len(doubled)
        process = before.process or 0
        until(lambda: len(doubled) > heard)  # it is silent from now on, and was not before
        os.kill(process, signal.SIGSTOP)  # with calls that it has answered in a moment
        began, late = time.monotonic(), held_up()
        until(lambda: replicas(env)[0].deaths > before.deaths)
        assert 0.5 < time.monotonic() - began < 1.0 + 2 + held_up() - late
        with suppress(ProcessLookupError):  # Ray may have ended it already
            os.kill(process, signal.SIGCONT)
        env.wait()
        assert replicas(env)[0].process != process
        assert doubled == [2 * n for n in range(600)]
        assert replicas(env)[0].replayed >= 1
        until(lambda: not Path(f"/proc/{process}").exists())


def test_nothing_runs_after_the_environment_is_closed() -> None:
    before = {thread.name for thread in threading.enumerate()}
    env = RayEnvironment("closed", TWO)
    env.register_service("doubler", there.Doubler)
    env.call_service("doubler", 1, method="double")
    until(lambda: all(each.state == "ready" for each in replicas(env)))
    processes = [each.process or 0 for each in replicas(env)]
    env.close()
    until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes), 30)

    def new_threads() -> set[str]:
        names = {thread.name for thread in threading.enumerate()} - before
        return {name for name in names if name.startswith("sage-")}

    until(lambda: not new_threads(), 30)


# -- workers --------------------------------------------------------------------------------------


def parallel(env: LocalEnvironment | RayEnvironment, dead: list[FailedRecord]) -> Any:
    stream = env.from_collection(range(2000)).map(there.add_one, parallelism=2)
    stream = stream.map(there.refuse_sevens, parallelism=2, on_error=dead.append)
    return stream.filter(there.is_even, parallelism=2).flatmap(there.twice, parallelism=2)


def test_operators_in_workers_do_as_here_and_keep_the_order() -> None:
    dead: list[FailedRecord] = []
    with RayEnvironment("workers") as env:
        found = parallel(env, dead).collect()
        metrics = env.metrics()
    numbers = [n for n in range(1, 2001) if n % 7 and n % 2 == 0]
    assert found == [each for n in numbers for each in (n, -n)]
    assert [failed.record for failed in dead] == [n for n in range(1, 2001) if n % 7 == 0]
    assert {failed.operator for failed in dead} == {"refuse_sevens"}
    assert dead[0].error.args == ("a seven", 7)
    assert dead[0].error.__notes__ == ["as ever"]
    counts = [(each.records_in, each.records_out, each.errors) for each in metrics.operators]
    local: list[FailedRecord] = []
    with LocalEnvironment("here") as env:
        parallel(env, local).collect()
        assert counts == [(o.records_in, o.records_out, o.errors) for o in env.metrics().operators]


def test_an_error_in_a_worker_stops_the_run_behind_what_was_before_it() -> None:
    found: list[int] = []
    env = RayEnvironment("raise")
    env.from_collection([1, 2, 7, 8]).map(there.refuse_sevens, parallelism=2).sink(found.append)
    with pytest.raises(ValueError, match="a seven") as caught:
        env.submit()
    assert found == [1, 2]
    assert any("in operator 'refuse_sevens' on record 7" in each for each in caught.value.__notes__)


def test_records_that_cannot_travel_are_their_own_errors() -> None:
    dead: list[FailedRecord] = []
    lock = threading.Lock()
    with RayEnvironment("travel") as env:
        stream = env.from_collection([1, lock, 2, 3, 4])
        found = stream.map(there.lock_a_three, parallelism=2, on_error=dead.append).collect()
    assert found == [1, 2, 4]
    assert [failed.record for failed in dead] == [lock, 3]
    assert all(isinstance(failed.error, TypeError) for failed in dead)


def test_a_record_that_kills_workers_is_one_dead_letter() -> None:
    dead: list[FailedRecord] = []
    with RayEnvironment("poison") as env:
        stream = env.from_collection(range(2000)).map(there.add_one, parallelism=2)
        stream = stream.map(there.Kill, 501, parallelism=2, on_error=dead.append)
        found = stream.map(there.add_one, parallelism=2).collect()
        deaths = sum(
            each.deaths for (states,) in [env.metrics().services.values()] for each in states
        )
    assert found == [n + 3 for n in range(2000) if n != 500]
    assert [(failed.operator, failed.record) for failed in dead] == [("Kill", 501)]
    assert isinstance(dead[0].error, WorkerDiedError)
    assert 3 <= deaths <= 3 + 2 * 8


def test_a_run_goes_from_here_to_the_cluster_and_back(tmp_path: Path) -> None:
    def submit(env: Any, stop_at: int | None) -> None:
        from sage.libs.io import JSONLSink

        def stop(number: int) -> int:
            if number == stop_at:
                raise InterruptedError
            return number

        stream = env.from_collection(range(3000)).map(there.add_one, parallelism=parallelism(env))
        stream = stream.map(stop).map(lambda n: {"n": n}, name="row")
        stream.sink(JSONLSink, str(tmp_path / "out.jsonl"))
        env.submit(checkpoint=tmp_path / "run")

    def parallelism(env: Any) -> int:
        return 2 if isinstance(env, RayEnvironment) else 1

    with pytest.raises(InterruptedError):
        submit(LocalEnvironment("moves"), 700)
    with pytest.raises(InterruptedError):
        submit(RayEnvironment("moves"), 1900)
    submit(LocalEnvironment("moves"), None)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert lines == [f'{{"n": {n}}}' for n in range(1, 3001)]
