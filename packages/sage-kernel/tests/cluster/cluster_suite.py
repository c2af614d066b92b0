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
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # importlib mode leaves it out, and the workers have it too

import cluster_services as there  # noqa: E402 - needs the path above

from sage.kernel.api import RayEnvironment  # noqa: E402
from sage.libs.io import JSONLSink  # noqa: E402

RECORDS = 5000
TIMES = int(os.environ.get("SAGE_CLUSTER_TIMES", "20"))
EXPECTED = [json.dumps({"n": 2 * n}) for n in range(RECORDS)]
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


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def row(number: int) -> dict[str, int]:
    return {"n": number}


def run(
    folder: Path,
    env: RayEnvironment,
    disturb: Callable[[RayEnvironment, int], None],
    times: int,
    *,
    workers: bool,
) -> None:
    """Run to a file, and disturb the run so often; the file must be what it would have been."""
    if workers:
        stream = env.from_collection(range(RECORDS)).map(there.slow_double, parallelism=2)
    else:
        env.register_service("doubler", there.Slow)
        stream = env.from_collection(range(RECORDS)).map(there.Ask)
    stream.map(row).sink(JSONLSink, str(folder / "out.jsonl"))
    env.submit(autostop=False)
    for number in range(times):
        until(lambda at=(number + 1) * RECORDS // (times + 2): env.metrics().done > at)  # type: ignore[misc]
        disturb(env, number)
    env.wait()
    env.close()
    assert (folder / "out.jsonl").read_text().splitlines() == EXPECTED


def kill_one(env: RayEnvironment, number: int) -> None:
    (states,) = env.metrics().services.values()
    up = [each for each in states if each.state == "ready" and each.process]
    if up:
        os.kill(up[number % len(up)].process or 0, signal.SIGKILL)


@pytest.mark.usefixtures("cluster")
def test_replicas_killed_many_times(tmp_path: Path) -> None:
    env = RayEnvironment("replicas", {"services": {"doubler": {"replicas": 2}}})
    run(tmp_path, env, kill_one, TIMES, workers=False)


@pytest.mark.usefixtures("cluster")
def test_workers_killed_many_times(tmp_path: Path) -> None:
    run(tmp_path, RayEnvironment("workers"), kill_one, TIMES, workers=True)


@pytest.mark.parametrize("workers", [False, True])
def test_machines_that_go_and_come(cluster: Any, tmp_path: Path, *, workers: bool) -> None:
    machines = [cluster.add_node(num_cpus=2)]

    def replace(_env: RayEnvironment, _number: int) -> None:
        old = machines.pop()
        machines.append(cluster.add_node(num_cpus=2))
        threading.Thread(target=cluster.remove_node, args=(old, False), daemon=True).start()

    env = RayEnvironment("machines", {"services": {} if workers else {"doubler": {"replicas": 3}}})
    run(tmp_path, env, replace, max(1, TIMES // 2), workers=workers)


@pytest.mark.parametrize("percent", [5, 25])
def test_messages_that_are_lost(percent: int, tmp_path: Path) -> None:
    """Of Ray's messages to actors, as Ray itself loses them for its tests."""
    program = """
        import sys
        sys.path.insert(0, {here!r})
        from pathlib import Path
        import cluster_suite as suite
        from sage.kernel.api import RayEnvironment

        config = {{"address": "local", "ray_init": {{"num_cpus": 4}}}}
        config["services"] = {{"doubler": {{"replicas": 2, "health_timeout": 8}}}}
        env = RayEnvironment("lost", config)
        suite.run(Path({folder!r}), env, lambda *_: None, 0, workers=False)
    """
    failing = f"CoreWorkerService.grpc_client.PushTask=-1:{percent}:{percent}"
    code = textwrap.dedent(program.format(here=str(HERE), folder=str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(HERE), "RAY_testing_rpc_failure": failing},
        check=False, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


PROGRAM = """
    import sys
    sys.path.insert(0, {here!r})
    import cluster_services as there
    import cluster_suite as suite
    from sage.kernel.api import LocalEnvironment, RayEnvironment
    from sage.libs.io import JSONLSink

    init = {{"num_cpus": 4}}
    env = RayEnvironment("driver", {{"address": "local", "ray_init": init}})
    if sys.argv[1] == "local":
        env = LocalEnvironment("driver")
    parallelism = 1 if sys.argv[1] == "local" else 2
    stream = env.from_collection(range(suite.RECORDS))
    stream = stream.map(there.slow_double, parallelism=parallelism).map(suite.row)
    stream.sink(JSONLSink, {folder!r} + "/out.jsonl")
    env.submit(checkpoint={folder!r} + "/run")
"""


@pytest.mark.parametrize("ways", [["ray"], ["local", "ray"]])
def test_a_driver_killed_many_times(ways: list[str], tmp_path: Path) -> None:
    chance = random.Random(1)
    out = tmp_path / "out.jsonl"
    for number in range(TIMES):
        program = start(ways[number % len(ways)], tmp_path)
        time.sleep(0.5 if ways[number % len(ways)] == "local" else chance.uniform(4, 8))
        program.kill()
        program.wait()
    program = start("local", tmp_path)
    assert program.wait(300) == 0
    assert out.read_text().splitlines() == EXPECTED


def start(way: str, folder: Path) -> subprocess.Popen[bytes]:
    code = textwrap.dedent(PROGRAM.format(here=str(HERE), folder=str(folder)))
    return subprocess.Popen(
        [sys.executable, "-c", code, way],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.usefixtures("cluster")
def test_a_poison_record_among_ten_thousand() -> None:
    dead: list[Any] = []
    with RayEnvironment("poison") as env:
        stream = env.from_collection(range(10_000))
        stream = stream.map(there.Kill, 7001, parallelism=2, on_error=dead.append)
        found = stream.collect()
        (states,) = env.metrics().services.values()
    assert found == [n + 1 for n in range(10_000) if n != 7001]
    assert [failed.record for failed in dead] == [7001]
    assert sum(each.deaths for each in states) <= 3 + 2 * 8
