"""Programs with a RayEnvironment that are killed or interrupted: what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # importlib mode leaves it out

from cluster_processes import descendants, shared_files, until, wait_for_the_end_of  # noqa: E402

PROGRAM = """
    import sys
    sys.path.insert(0, {here!r})
    import cluster_services as there
    from sage.kernel.api import RayEnvironment

    services = {{"doubler": {{"replicas": 2}}}}
    env = RayEnvironment("alone", {{"address": {address!r}, "services": services}})
    env.register_service("doubler", there.Parent)
    env.from_collection(range(100_000)).map(there.Ask).sink(lambda n: None)
    env.submit(autostop=False)
    print(*(each.process for each in env.metrics().services["doubler"]), flush=True)
    env.wait()
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_program_that_ends_leaves_nothing(signal_number: int) -> None:
    """It starts a cluster of its own, which goes with it."""
    with started("local") as (program, replicas):
        left = descendants(program.pid)
        assert replicas < left
        shared = shared_files(left)
        assert shared
        program.send_signal(signal_number)
        _, error = program.communicate(timeout=90)
        if signal_number == signal.SIGINT:
            assert program.returncode == -signal.SIGINT  # which is 130 to a shell
            assert error.rstrip().endswith("KeyboardInterrupt")  # and nothing after it
        wait_for_the_end_of(left)
        until(lambda: not [path for path in shared if path.exists()], 30)


@pytest.mark.timeout(240)
def test_a_program_that_is_killed_leaves_nothing_on_a_cluster_that_goes_on(
    ray_cluster: Any,
) -> None:
    with started(ray_cluster.address) as (program, replicas):
        left = {*replicas, *(child for each in replicas for child in descendants(each))}
        assert len(left) >= 4  # each replica and what it started
        program.kill()
        program.communicate(timeout=90)
        wait_for_the_end_of(left)


@pytest.mark.timeout(240)
def test_a_program_that_is_interrupted_while_its_cluster_starts_leaves_nothing() -> None:
    """Ray's agents are orphans by then, and nothing about them says whose they were."""
    code = textwrap.dedent(PROGRAM.format(here=str(HERE), address="local"))
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    until(lambda: any(is_agent(each) for each in descendants(program.pid)), 120)
    time.sleep(0.5)
    left = descendants(program.pid)
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=90)
    wait_for_the_end_of(left)


def is_agent(process: int) -> bool:
    with suppress(OSError):  # it has ended
        return b"ray::DashboardAgent" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


ONE_AFTER_THE_OTHER = """
    import subprocess, sys
    from sage.kernel.api import NoClusterError, RayEnvironment

    def run(**config):
        with RayEnvironment("one", {"ray_init": {"num_cpus": 2}, **config}) as env:
            print(env.from_collection(range(3)).map(abs, parallelism=2).collect(), flush=True)
            import ray
            address = ray.get_runtime_context().gcs_address
            if sys.argv[1:] == ["other"]:
                print(address)
                return
            other = [sys.executable, sys.argv[0], "other"]
            found = subprocess.run(other, check=True, stdout=subprocess.PIPE, text=True).stdout
            assert found.split()[-1] != address

    modules = {"working_dir": "nowhere"}
    if sys.argv[1:] == []:
        try:
            run(runtime_env=modules)
        except NoClusterError as error:
            print(error)
        modules["working_dir"] = "."
        run(runtime_env=modules)
        assert modules == {"working_dir": "."}
    else:
        run()
"""


@pytest.mark.timeout(400)
def test_each_program_has_its_own_cluster_also_after_one_that_could_not_start(
    tmp_path: Path,
) -> None:
    (tmp_path / "one.py").write_text(textwrap.dedent(ONE_AFTER_THE_OTHER))
    # Other tests may have a cluster of this machine. A path to a socket has to be short.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [sys.executable, "one.py"],
            cwd=tmp_path,
            env={**os.environ, "RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    error, *said = done.stdout.splitlines()
    assert error.startswith("cannot start a cluster of this machine: ")
    assert error.endswith("; see 'ray_init' and 'runtime_env' in the configuration")
    assert said == ["[0, 1, 2]"]


@contextmanager
def started(address: str) -> Iterator[tuple[subprocess.Popen[str], set[int]]]:
    """Start the program, and give it with the processes of its replicas."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM.format(here=str(HERE), address=address))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        text=True,
    )
    try:
        assert program.stdout is not None
        line = program.stdout.readline()
        assert line, program.communicate()[1]
        replicas = {int(process) for process in line.split()}
        assert len(replicas) == 2
        yield program, replicas
    finally:
        program.kill()
        program.communicate()
