"""A pipeline whose engine is killed in the middle of its run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sage.kernel.api import LocalEnvironment
from sage.libs.operators.vllm_service import VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service


def test_a_killed_engine_loses_and_doubles_no_record(
    model_root: Path, engine_processes: Callable[[], list[int]]
) -> None:
    env = LocalEnvironment("killed")
    register_vllm_service(
        env,
        config={
            "model_id": "test/tiny-chat",
            "model_root": model_root,
            "engine_mode": "process",
            "engine": {"max_num_seqs": 32, "kv_cache_memory_bytes": 64 << 20, "dtype": "float32"},
            "sampling": {"temperature": 0, "max_tokens": 16},
        },
    )
    records = [{"id": n, "prompt": f"prompt number {n}"} for n in range(256)]
    out: list[dict[str, Any]] = []

    def keep(record: dict[str, Any]) -> None:
        out.append(record)
        if len(out) == 60:
            for pid in engine_processes():
                os.kill(pid, signal.SIGKILL)

    env.from_collection(records).map(VLLMServiceGenerator).sink(keep)
    with env:
        undisturbed = env.call_service(
            "vllm_service", [record["prompt"] for record in records], method="generate"
        )
        env.submit(autostop=False)
        env.wait()
        assert env.call_service("vllm_service", method="stats")["restarts"] == 1
    assert [record["id"] for record in out] == list(range(256))
    assert [record["generated"] for record in out] == [each["text"] for each in undisturbed]
