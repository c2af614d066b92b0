"""The files of examples/service/vllm/cluster, as far as they can be read without a cluster."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from page_samples import ROOT

EXAMPLES = ROOT / "examples" / "service" / "vllm"


def read(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / "cluster" / name).read_text(encoding="utf-8"))


def test_ray_accepts_the_machines_and_commands() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read("ray_up.yaml"))
    validate_config(config)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])


def test_the_job_of_kubernetes_is_a_program_that_accepts_its_arguments() -> None:
    job = read("ray_job.yaml")
    python, program, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (python, program) == ("python", "/sage/examples/service/vllm/cluster_job.py")
    there = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    parsed = "import cluster_job; print(cluster_job.parse())"
    done = subprocess.run(
        [sys.executable, "-c", parsed, *arguments],
        env=there, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "grows=True" in done.stdout
    assert "replicas=[1, 8]" in done.stdout
    cluster = job["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = {pod["template"]["spec"]["containers"][0]["image"] for pod in pods}
    assert len(images) == 1


def test_the_script_of_slurm_starts_ray_on_all_machines(tmp_path: Path) -> None:
    for name, code in {"scontrol": 'printf "one\\ntwo\\n"', "srun": 'echo "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "one,two", "SLURM_JOB_NUM_NODES": "2"}
    done = subprocess.run(
        ["sh", str(EXAMPLES / "cluster" / "slurm.sh"), "python", "job.py", "a b"],
        env={**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    started = "ray symmetric-run --address one:6379 --min-nodes 2 -- python job.py a b"
    assert done.stdout.strip() == started
