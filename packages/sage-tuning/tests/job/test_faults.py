"""A job whose starter dies, or asks it to stop, or that has no network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from examples_file import as_lines
from skills import style

from sage.common.components.sage_vllm.fine_tuning import FineTuneJob, FineTuneJobError
from sage.common.components.sage_vllm.fine_tuning.job_folder import worker_of

SAGE = [sys.executable, "-c", "from sage.tools.cli.main import main; main()"]
NO_NETWORK = """
import os, socket
connect = socket.socket.connect
def refuse(self, address):
    if self.family == socket.AF_UNIX or str(address[0]).startswith("127."):
        return connect(self, address)
    with open(os.environ["ATTEMPTS"], "a") as file:
        file.write(f"{address}\\n")
    raise OSError(101, "Network is unreachable")
socket.socket.connect = refuse
"""


@pytest.fixture(scope="module")
def folder(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    training, held_out = style(64, 20)
    (folder / "train.jsonl").write_text(as_lines(training))
    (folder / "eval.jsonl").write_text(as_lines(held_out))
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    shutil.copytree(demo_root, folder / "registry")
    return folder


def start(folder: Path, name: str, *more: str) -> subprocess.Popen[str]:
    """Start a training of the demo model from the command line, without a network."""
    options = ["--dataset", "train.jsonl", "--eval-dataset", "eval.jsonl", "-o", name]
    settings = ["threads=1", "learning_rate=0.003", *more]
    for setting in settings:
        options += ["--hyperparameter", setting]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "SAGE_VLLM_MODEL_ROOT": str(folder / "registry"),
        "PYTHONPATH": str(folder / "site"),
        "ATTEMPTS": str(folder / "attempts"),
    }
    return subprocess.Popen(
        [*SAGE, "llm", "fine-tune", "-m", "sage/demo-chat", *options, "--as", f"my/{name}"],
        cwd=folder, env=environment, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def job_at_step(folder: Path, step: int) -> FineTuneJob:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        try:
            job = FineTuneJob.open(folder)
        except FineTuneJobError:  # it is not made yet
            time.sleep(0.05)
            continue
        if job.progress.step >= step:
            return job
        time.sleep(0.05)
    raise TimeoutError(folder)


def is_alive(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_without_a_network_it_asks_for_none(folder: Path) -> None:
    process = start(folder, "offline", "epochs=10")
    out, err = process.communicate(timeout=480)
    assert process.returncode == 0, err
    assert "exact in vLLM" in out
    assert "sage llm run sage/demo-chat --lora my/offline" in out
    assert [line for line in err.splitlines() if line.startswith("state ")] == [
        f"state {state}" for state in ("training", "verifying", "registering", "succeeded")
    ]
    assert not (folder / "attempts").exists()
    page = (folder / "offline" / "report.html").read_text()
    assert "<svg" in page
    assert "<script" not in page


def test_ctrl_c_stops_after_the_step_and_says_how_to_go_on(folder: Path) -> None:
    process = start(folder, "stopped", "epochs=1000")
    job = job_at_step(folder / "stopped", 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130
    assert f"sage llm fine-tune resume {folder / 'stopped'}" in err
    assert job.state == "cancelled"
    assert job.checkpoints()


def test_a_job_ends_with_whoever_started_it_and_can_be_resumed(folder: Path) -> None:
    process = start(folder, "orphan", "epochs=1000")
    job = job_at_step(folder / "orphan", 2)
    worker = worker_of(job.folder)
    process.kill()
    process.communicate()
    assert job.wait(60) == "interrupted"
    assert worker is not None
    end = time.monotonic() + 60
    while is_alive(worker):  # it lets go of the job's lock just before its end
        assert time.monotonic() < end
        time.sleep(0.02)
    environment = {**os.environ, "SAGE_VLLM_MODEL_ROOT": str(folder / "registry")}
    shown = subprocess.run(
        [*SAGE, "llm", "fine-tune", "show", folder / "orphan", "--json"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(shown.stdout)["state"] == "interrupted"
