"""What a cluster survives, many times over: ``make test-cluster``; CI has a share of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # importlib mode leaves it out, and the workers have it too

import cluster_services as there  # noqa: E402 - needs the path above
from cluster_processes import (  # noqa: E402
    descendants,
    shared_files,
    until,
    wait_for_the_end_of,
)

from sage.kernel.api import RayEnvironment, ReplicaStatus  # noqa: E402
from sage.libs.io import JSONLSink  # noqa: E402

RECORDS = 5000
TIMES = int(os.environ.get("SAGE_CLUSTER_TIMES", "20"))
EXPECTED = "".join(f"{json.dumps({'n': 2 * n})}\n" for n in range(RECORDS))
HEALTH_TIMEOUT = 1.0  # seconds
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(HERE))
    limits = {
        "health_check_initial_delay_ms": 500,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 3,
    }
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 4, "include_dashboard": False, "_system_config": limits},
    )
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def row(number: int) -> dict[str, int]:
    return {"n": number}


def run(
    folder: Path,
    env: RayEnvironment,
    disturb: Callable[[RayEnvironment, int], None],
    times: int,
    *,
    workers: bool,
    double: Callable[[int], int] = there.slower_double,
    doubler: type[there.Doubler] = there.Slow,
) -> None:
    """Run to a file, and disturb the run so often; the file must be what it would have been.

    ``double`` and ``doubler`` are slow enough that the last kill comes before the last record.
    """
    if workers:
        stream = env.from_collection(range(RECORDS)).map(double, parallelism=2)
    else:
        env.register_service("doubler", doubler)
        stream = env.from_collection(range(RECORDS)).map(there.Ask)
    stream.map(row).sink(JSONLSink, str(folder / "out.jsonl"))
    env.submit(autostop=False)
    for number in range(times):
        # By what came out: a worker that dies again and again with nothing done is given up.
        until(lambda at=(number + 1) * RECORDS // (times + 2): written(env) > at)  # type: ignore[misc]
        disturb(env, number)
    env.wait()
    env.close()
    assert (folder / "out.jsonl").read_text() == EXPECTED
    (states,) = env.metrics().services.values()
    again = sum(each.replayed for each in states)
    print(f"{times} times: {deaths_of(env)} deaths, {again} calls or chunks made again")


def written(env: RayEnvironment) -> int:
    return env.metrics().operators[-1].records_out


def deaths_of(env: RayEnvironment) -> int:
    (states,) = env.metrics().services.values()
    return sum(each.deaths for each in states)


def kill_one(env: RayEnvironment, number: int) -> None:
    until(lambda: ready(env))
    up, deaths = ready(env), deaths_of(env)
    os.kill(up[number % len(up)].process or 0, signal.SIGKILL)
    until(lambda: deaths_of(env) > deaths)  # or the next kill may be of the same process


def ready(env: RayEnvironment) -> list[ReplicaStatus]:
    (states,) = env.metrics().services.values()
    return [each for each in states if each.state == "ready"]


@pytest.mark.usefixtures("cluster")
def test_replicas_killed_many_times(tmp_path: Path) -> None:
    env = RayEnvironment("replicas", {"services": {"doubler": {"replicas": 2}}})
    run(tmp_path, env, kill_one, TIMES, workers=False)
    assert deaths_of(env) == TIMES
    replayed = sum(each.replayed for each in env.metrics().services["doubler"])
    assert replayed <= TIMES * there.Slow.capacity  # no more than were in flight


@pytest.mark.usefixtures("cluster")
def test_workers_killed_many_times(tmp_path: Path) -> None:
    env = RayEnvironment("workers")
    run(tmp_path, env, kill_one, TIMES, workers=True)
    assert deaths_of(env) == TIMES


@pytest.mark.parametrize("workers", [False, True])
def test_machines_that_go_and_come(cluster: Any, tmp_path: Path, *, workers: bool) -> None:
    """Each machine that dies has one of the two replicas or workers, which the next one gets."""
    machines = [cluster.add_node(num_cpus=3)]
    room = {"cpus": 3}  # the head has four

    def replace(env: RayEnvironment, _number: int) -> None:
        until(lambda: len(ready(env)) == 2)
        deaths, old = deaths_of(env), machines.pop()
        machines.append(cluster.add_node(num_cpus=3))
        threading.Thread(target=cluster.remove_node, args=(old, False), daemon=True).start()
        until(lambda: deaths_of(env) > deaths)

    services = {"doubler": {"replicas": 2, **room}}
    env = RayEnvironment("machines", {"workers": room} if workers else {"services": services})
    times = max(1, TIMES // 2)
    slow: dict[str, Any] = {"double": there.slowest_double, "doubler": there.Slowest}
    run(tmp_path, env, replace, times, workers=workers, **slow)
    assert deaths_of(env) == times


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("workers", [False, True])
def test_what_stands_still_many_times(
    tmp_path: Path, held_up: Callable[[], float], *, workers: bool
) -> None:
    """It is replaced in time; when it goes on, what it says is not heard."""
    settings = {"health_timeout": HEALTH_TIMEOUT}
    config = {"services": {"doubler": {"replicas": 2, **settings}}}
    env = RayEnvironment("stopped", {"workers": settings} if workers else config)

    def stop_one(env: RayEnvironment, number: int) -> None:
        until(lambda: ready(env))
        stopped = ready(env)[0]
        deaths = deaths_of(env)
        os.kill(stopped.process or 0, signal.SIGSTOP)
        began, late = time.monotonic(), held_up()
        until(lambda: deaths_of(env) > deaths)
        assert time.monotonic() - began < HEALTH_TIMEOUT + 2 + held_up() - late, number
        with suppress(ProcessLookupError):  # Ray may have ended it already
            os.kill(stopped.process or 0, signal.SIGCONT)

    run(tmp_path, env, stop_one, max(1, TIMES // 2), workers=workers)


LOSSY = """
    import sys
    sys.path.insert(0, {here!r})
    from pathlib import Path
    import cluster_suite as suite
    from sage.kernel.api import RayEnvironment
    from sage.kernel.runtime.cluster import ray_cluster
    from sage.kernel.runtime.cluster.operators import chunk_window

    lost = []

    def counted(reason, real=ray_cluster.RemoteUnavailableError):
        lost.append(reason)
        return real(reason)

    ray_cluster.RemoteUnavailableError = counted
    chunk_window._MOST_RECORDS = 16  # so that there are many messages to lose
    config = {{"address": "local", "ray_init": {{"num_cpus": 4}}}}
    # Ray takes a second to say that a message is lost; what it says nothing of is lost then, too.
    settings = {{"health_timeout": 10}}
    if {workers}:
        config["workers"] = settings
    else:
        config["services"] = {{"doubler": {{"replicas": 2, **settings}}}}
    env = RayEnvironment("lossy", config)
    suite.run(Path({folder!r}), env, lambda *_: None, 0, workers={workers})
    print(len(lost), suite.deaths_of(env))
"""


@pytest.mark.parametrize("workers", [False, True])
@pytest.mark.parametrize("percent", [5, 25])
def test_messages_that_are_lost(percent: int, tmp_path: Path, *, workers: bool) -> None:
    """Of Ray's messages to actors, as Ray itself loses them for its tests."""
    code = LOSSY.format(here=str(HERE), folder=str(tmp_path), workers=workers)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(HERE), "RAY_testing_rpc_failure": failing(percent)},
        check=False, capture_output=True, text=True, timeout=1000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lost, deaths = map(int, done.stdout.split()[-2:])
    print(f"{percent} %: {lost} messages lost, {deaths} deaths")
    assert lost > percent


def failing(percent: int) -> str:
    """Return how Ray is told to lose so many of its messages to actors, in each of three ways."""
    third = percent // 3
    chances = {
        "num_failures": -1,
        "req_failure_prob": percent - 2 * third,
        "resp_failure_prob": third,
        "in_flight_failure_prob": third,
    }
    return json.dumps({"CoreWorkerService.grpc_client.PushTask": chances})


PROGRAM = """
    import sys
    sys.path.insert(0, {here!r})
    import cluster_services as there
    import cluster_suite as suite
    from sage.kernel.api import LocalEnvironment, RayEnvironment
    from sage.libs.io import JSONLSink

    local = sys.argv[1] == "local"
    env = LocalEnvironment("driver")
    if not local:
        services = {{}} if {workers} else {{"doubler": {{"replicas": 2}}}}
        env = RayEnvironment("driver", {{"address": {address!r}, "services": services}})
    stream = env.from_collection(range(suite.RECORDS))
    if {workers}:
        stream = stream.map(there.slower_double, parallelism=1 if local else 2)
    else:
        env.register_service("doubler", there.Slower)
        stream = stream.map(there.Ask)
    stream.map(suite.row).sink(JSONLSink, {folder!r} + "/out.jsonl")
    env.submit(checkpoint={folder!r} + "/run")
"""


@pytest.mark.parametrize(
    ("ways", "workers"), [(["ray"], True), (["ray"], False), (["local", "ray"], True)]
)
def test_a_driver_killed_many_times(
    cluster: Any, ways: list[str], tmp_path: Path, *, workers: bool
) -> None:
    chance = random.Random(1)
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"

    def size() -> int:
        return partial.stat().st_size if partial.exists() else 0

    def start(way: str) -> subprocess.Popen[bytes]:
        code = PROGRAM.format(
            here=str(HERE), folder=str(tmp_path), address=cluster.address, workers=workers
        )
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), way],
            env={**os.environ, "PYTHONPATH": str(HERE)},
            stderr=subprocess.DEVNULL,
        )

    for number in range(TIMES):
        before = size()
        program = start(ways[number % len(ways)])
        until(lambda before=before: size() != before)  # type: ignore[misc]
        time.sleep(chance.uniform(0, 0.3))
        assert program.poll() is None, "it was through before it could be killed"
        program.kill()
        program.wait()
    program = start("local")
    assert program.wait(300) == 0
    assert out.read_text() == EXPECTED
    until(lambda: not workers_on(cluster), 15)


def workers_on(cluster: Any) -> list[int]:
    """Return the processes on a cluster's machines that run workers or replicas."""
    session = str(cluster.head_node.get_session_dir_path())
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it writes its title over its environment, and to a log there
            if b"ray::_Actor" in (path / "cmdline").read_bytes():
                logs = [file.readlink() for file in (path / "fd").iterdir()]
                if any(log.is_relative_to(session) for log in logs):
                    found.append(int(path.name))
    return found


ENGINES = """
    from sage.common.components.sage_vllm.service import VLLMService
    from sage.kernel.api import RayEnvironment
    from sage.libs.operators import VLLMServiceGenerator

    services = {{"vllm_service": {{"replicas": 2, "gpus": 0, "cpus": 1}}}}
    env = RayEnvironment("engines", {{"address": {address!r}, "services": services}})
    config = {{"model_id": "test/tiny-chat", "model_root": {root!r}, "engine_mode": "process"}}
    config["engine"] = {{"max_num_seqs": 16, "kv_cache_memory_bytes": 64 << 20}}
    env.register_service("vllm_service", VLLMService, config)
    stream = env.from_collection(f"question {{n}}" for n in range(100_000))
    stream.map(VLLMServiceGenerator, max_tokens=8).sink(lambda _: None)
    env.submit(autostop=False)
    while env.metrics().operators[-1].records_out < 20:
        pass
    print("running", flush=True)
    env.wait()
"""


def test_engines_of_a_driver_that_is_killed_end_too(cluster: Any, model_root: Path) -> None:
    """They are processes of the replicas, which are processes of the cluster that goes on."""
    code = ENGINES.format(address=cluster.address, root=str(model_root))
    for _ in range(max(1, TIMES // 10)):
        program = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE
        )
        assert program.stdout is not None
        assert program.stdout.readline() == b"running\n"
        replicas = workers_on(cluster)
        assert len(replicas) == 2
        left = {*replicas, *(each for one in replicas for each in descendants(one))}
        assert len(left) >= 4  # each has an engine
        shared = {path for path in shared_files(left) if path.exists()}
        assert any(path.name.startswith("psm_") for path in shared)
        program.kill()
        program.communicate()
        began = time.monotonic()
        wait_for_the_end_of(left, 15)
        print(f"{len(left)} processes ended in {time.monotonic() - began:.1f} s")
        files = [path for path in shared if "plasma" not in path.name]
        until(lambda files=files: not any(path.exists() for path in files), 15)  # type: ignore[misc]


@pytest.mark.usefixtures("cluster")
def test_a_poison_record_among_ten_thousand() -> None:
    dead: list[Any] = []
    with RayEnvironment("poison") as env:
        stream = env.from_collection(range(10_000))
        stream = stream.map(there.Kill, 7001, parallelism=2, on_error=dead.append)
        found = stream.collect()
    assert found == [n + 1 for n in range(10_000) if n != 7001]
    assert [failed.record for failed in dead] == [7001]
    assert deaths_of(env) <= 3 + 2 * 8
