"""An engine in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sage.common.components.sage_vllm.errors import EngineDeadError
from sage.common.components.sage_vllm.service import VLLMService


def test_it_generates_and_its_death_fails_its_callers_at_once(
    model_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {
        "model_id": "test/tiny-chat",
        "model_root": model_root,
        "engine_mode": "process",
        "engine": {"kv_cache_memory_bytes": 64 << 20},
        "sampling": {"temperature": 0, "max_tokens": 8},
    }
    with VLLMService(config) as service:
        assert service.stats()["engine"]["mode"] == "process"
        (result,) = service.generate("Hello")
        assert result["tokens_used"]["completion"] == 8
        pending = service.generate_async("Hello", max_tokens=400)
        for pid in _children(os.getpid()):
            if "VLLM" in (Path("/proc") / str(pid) / "comm").read_text():
                os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineDeadError, match="test/tiny-chat"):
            pending.result(timeout=60)
        with pytest.raises(EngineDeadError):
            service.generate("Hello")
    assert "the engine of test/tiny-chat failed" in caplog.text


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
        host.kill()
    deadline = time.monotonic() + 5
    while session_members(host.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert session_members(host.pid) == []


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
