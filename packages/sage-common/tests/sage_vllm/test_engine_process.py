"""An engine in a process of its own, and the death of its host."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sage.common.components.sage_vllm.service import VLLMService

HOST = """
import sys, time
from pathlib import Path
from sage.common.components.sage_vllm.service import VLLMService

if __name__ == "__main__":
    config = {
        "model_id": "test/tiny-chat", "model_root": Path(sys.argv[1]), "engine_mode": "process",
        "engine": {"kv_cache_memory_bytes": 64 << 20},
    }
    with VLLMService(config) as service:
        print("up", flush=True)
        service.generate("Hello", max_tokens=500, ignore_eos=True)
        time.sleep(600)
"""


def test_no_engine_process_outlives_a_killed_host(
    model_root: Path, tmp_path: Path, session_members: Callable[[int], list[str]]
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
        (worker,) = (
            process
            for process in psutil.Process(host.pid).children(recursive=True)
            if process.name().startswith("VLLM::Worker")
        )
        worker.suspend()  # it hangs, and so cannot end by itself
        host.kill()
    deadline = time.monotonic() + 5
    while session_members(host.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert session_members(host.pid) == []


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
