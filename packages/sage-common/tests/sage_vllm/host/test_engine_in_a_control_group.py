"""A real engine in a real control group, and on fewer cores than the machine has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

GROUPS = Path("/sys/fs/cgroup")
INLINE = """
import json, sys
from pathlib import Path
import torch
from sage.common.components.sage_vllm.backend.vllm_runtime import VLLMRuntime
from sage.common.components.sage_vllm.planning.device import this_cpu
from sage.common.components.sage_vllm.service import VLLMService

threads = set()
step = VLLMRuntime.step

def counted(runtime):
    threads.add(torch.get_num_threads())  # OpenMP's, which are of the thread that steps
    return step(runtime)

VLLMRuntime.step = counted
total = this_cpu().total
config = {
    "model_id": "test/tiny-chat", "model_root": Path(sys.argv[1]), "engine_mode": "inline",
    "engine": {"kv_cache_memory_bytes": 32 << 20},
}
for _ in range(2):  # the second engine in a process, too
    with VLLMService(config) as service:
        (answer,) = service.generate("Hello", max_tokens=8, ignore_eos=True)
print(json.dumps({
    "tokens": answer["tokens_used"]["completion"], "threads": sorted(threads), "total": total,
}))
"""
WORKER = """
import json, os
from types import SimpleNamespace
from sage.common.components.sage_vllm.backend import fork_server
import torch

seen = []
for auto in (True, False):
    manager = SimpleNamespace(
        skip_setup=False, auto_setup=auto, reserve_cpu_num=1, local_world_size=1,
        cpu_lists=[sorted(os.sched_getaffinity(0))],
    )
    with fork_server._bind_worker(manager, local_rank=0):
        seen.append([len(os.sched_getaffinity(0)), torch.get_num_threads()])
print(json.dumps(seen))
"""


@contextmanager
def group(controller: str, settings: Mapping[str, object]) -> Iterator[Path]:
    """A group (version 1) in this process's own; skips where none can be made."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            break
    else:
        pytest.skip(f"no control groups of version 1 for {controller} here")
    folder = GROUPS / controllers / path.lstrip("/") / f"sage-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"a control group cannot be made here: {error}")
    try:
        for name, value in settings.items():
            (folder / name).write_text(str(value))
        yield folder
    finally:
        remove(folder)


def remove(group: Path) -> None:
    """Remove a group once the last process in it has ended, soon after its program."""
    end = time.monotonic() + 60
    while True:
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


def run(script: str, *arguments: object, inside: Path | None = None, first: str = "") -> Any:
    """Run a script, of ``inside`` a control group if one is given; returns its JSON."""
    enter = f"echo $$ > {inside}/cgroup.procs && " if inside else ""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    wrapped = ["/bin/sh", "-c", f'{enter}exec {first} "$@"', "sh", *command]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "OMP_NUM_"))
    }
    done = subprocess.run(
        wrapped, capture_output=True, text=True, timeout=500, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


CORES = len(os.sched_getaffinity(0))
needs_two_cores = pytest.mark.skipif(CORES < 2, reason="one core cannot be divided")


@needs_two_cores
def test_an_engine_starts_no_more_threads_than_a_quota_pays_for(model_root: Path) -> None:
    with group("cpu", {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": 150_000}) as inside:
        seen = run(INLINE, model_root, inside=inside)
    assert seen["threads"] == [1]
    assert seen["tokens"] == 8


@needs_two_cores
def test_an_engine_starts_no_more_threads_than_it_has_cores(model_root: Path) -> None:
    core = min(os.sched_getaffinity(0))
    seen = run(INLINE, model_root, first=f"taskset -c {core}")
    assert seen["threads"] == [1]
    assert seen["tokens"] == 8


def test_an_engine_is_sized_to_the_memory_of_its_group(model_root: Path) -> None:
    with group("memory", {"memory.limit_in_bytes": 3 << 30}) as inside:
        seen = run(INLINE, model_root, inside=inside)
    assert seen["total"] == 3 << 30
    assert seen["tokens"] == 8
    assert max(seen["threads"]) <= CORES


@needs_two_cores
def test_the_worker_of_an_engine_process_keeps_to_a_quota() -> None:
    with group("cpu", {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": 100_000}) as inside:
        by_vllm, by_the_user = run(WORKER, inside=inside)
    assert by_vllm == [1, 1]
    assert by_the_user == [CORES, CORES]  # VLLM_CPU_OMP_THREADS_BIND says which
