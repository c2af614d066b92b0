"""An engine in a process of its own, and the death of its host."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from sage.common.components.sage_vllm.service import VLLMService

LIMIT = 60  # seconds, in which the system ends processes that it has killed
HOST = """
import sys, time
from pathlib import Path
from sage.common.components.sage_vllm.service import VLLMService

# As most scripts, without a guard: the engine's process must not run this again.
config = {
    "model_id": "test/tiny-chat", "model_root": Path(sys.argv[1]), "engine_mode": "process",
    "engine": {"kv_cache_memory_bytes": 64 << 20},
}
with VLLMService(config) as service:
    print("up", flush=True)
    service.generate("Hello", max_tokens=500, ignore_eos=True)
    time.sleep(600)
"""

HOSTS = """
import os, signal, sys, time
from pathlib import Path
from sage.common.components.sage_vllm.backend import engine_build
from sage.common.components.sage_vllm.host.quick_imports import quick_imports
from sage.common.components.sage_vllm.service import VLLMService

with quick_imports():
    import vllm.v1.engine.core, vllm.v1.engine.llm_engine


def be_host(up):
    config = {
        "model_id": "test/tiny-chat", "model_root": Path(sys.argv[1]), "engine_mode": "process",
        # With the norms of vLLM itself: ours are registered in forks alone.
        "engine": {"kv_cache_memory_bytes": 64 << 20, "ir_op_priority": {}},
    }
    with VLLMService(config):
        os.write(up, b"up")
        time.sleep(600)


if sys.argv[2] == "as on a GPU":
    tied = engine_build.tied_processes
    engine_build.tied_processes = lambda utils, forked: tied(utils, forked=False)
whole_start = None
for part in map(float, sys.argv[3:]):
    is_up, up = os.pipe()
    began = time.monotonic()
    if (host := os.fork()) == 0:
        os.setsid()
        be_host(up)
    os.close(up)
    if whole_start is None:
        assert os.read(is_up, 2) == b"up"
        whole_start = time.monotonic() - began
    else:
        time.sleep(whole_start * part)
    os.kill(host, signal.SIGKILL)
    os.waitpid(host, 0)
    print(host, time.monotonic(), flush=True)
"""


@pytest.mark.parametrize(("start", "moments"), [("forked", 20), ("as on a GPU", 5)])
def test_no_process_outlives_a_host_that_is_killed_while_its_engine_starts(
    model_root: Path,
    tmp_path: Path,
    session_members: Callable[[int], list[str]],
    start: str,
    moments: int,
) -> None:
    script = tmp_path / "hosts.py"
    script.write_text(HOSTS)

    def kill_at(parts: list[float]) -> int:
        """Kill a host that is up, and then one at each of these parts of its start."""
        command = [sys.executable, str(script), str(model_root), start, "1", *map(str, parts)]
        killed = 0
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hosts:
            assert hosts.stdout is not None
            try:
                for line in hosts.stdout:
                    host, when = line.split()
                    give_up = float(when) + LIMIT
                    while (left := session_members(int(host))) and time.monotonic() < give_up:
                        time.sleep(0.05)
                    assert left == []
                    killed += 1
            finally:
                hosts.kill()
        return killed

    parts = [moment / moments for moment in range(moments)]
    with ThreadPoolExecutor() as both:  # a start is at work on one core for most of its time
        killed = sum(both.map(kill_at, (parts[::2], parts[1::2])))
    assert killed == moments + 2


@pytest.mark.parametrize("stopped", ["VLLM::Worker", "VLLM::EngineCor"])
def test_no_engine_process_outlives_a_killed_host(
    model_root: Path, tmp_path: Path, session_members: Callable[[int], list[str]], stopped: str
) -> None:
    script = tmp_path / "host.py"
    script.write_text(HOST)
    with subprocess.Popen(
        [sys.executable, str(script), str(model_root)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"up\n"
        assert len(session_members(host.pid)) >= 3  # host, engine and worker
        (process,) = (
            process
            for process in psutil.Process(host.pid).children(recursive=True)
            if process.name().startswith(stopped)
        )
        process.suspend()  # it hangs, and so cannot end by itself
        host.kill()
    deadline = time.monotonic() + LIMIT
    while session_members(host.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert session_members(host.pid) == []


LSCPU = """#!/bin/sh
echo asked >> {log}
sleep 0.5
PATH={path}
exec lscpu "$@"
"""


def test_a_ctrl_c_ends_nothing_that_an_engine_starts_with(model_root: Path, tmp_path: Path) -> None:
    script, log, command = tmp_path / "host.py", tmp_path / "asked", tmp_path / "lscpu"
    script.write_text(f"import signal\nsignal.signal(signal.SIGINT, lambda *_: None)\n{HOST}")
    command.write_text(LSCPU.format(log=log, path=os.environ["PATH"]))
    command.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, str(script), str(model_root)],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as host:
        assert host.stdout is not None
        try:
            while not log.exists() and host.poll() is None:
                time.sleep(0.01)
            while not select.select([host.stdout], [], [], 0.05)[0]:
                os.killpg(host.pid, signal.SIGINT)  # as a terminal does
            assert host.stdout.readline() == b"up\n"
        finally:
            host.kill()
    assert log.read_text().splitlines() == ["asked"]  # by the fork server, for all of its engines


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two cores are told apart")
def test_engines_are_forked_from_one_process_with_the_environment_of_their_start(
    model_root: Path,
    engine_processes: Callable[[], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = {
        "model_id": "test/tiny-chat",
        "model_root": model_root,
        "engine_mode": "process",
        "engine": {"kv_cache_memory_bytes": 64 << 20},
    }
    cores = sorted(os.sched_getaffinity(0))[:2]
    bound, parents = [], []
    for core in cores:
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", str(core))
        with VLLMService(config) as service:
            assert service.generate("Hello", max_tokens=1)
            (engine,) = (psutil.Process(pid) for pid in engine_processes())
            (worker,) = engine.children()
            bound.append(worker.cpu_affinity())
            parents.append(engine.parent())
        assert engine_processes() == []
    assert bound == [[core] for core in cores]
    assert parents[0] == parents[1]
    assert parents[0].name().startswith("SAGE::ForkServ")
