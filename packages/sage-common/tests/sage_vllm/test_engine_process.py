"""An engine in a process of its own, and the death of its host."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

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
