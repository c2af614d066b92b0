"""Trains small jobs in one process, and prints what came of each as a line of JSON.

python trainings.py REGISTRY FOLDER TRAIN.jsonl EVAL.jsonl
"""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.fine_tuning import check_request
from sage.tuning.job.making import make_job
from sage.tuning.job.writer import JobWriter
from sage.tuning.plan import make_plan
from sage.tuning.training.progress import Stop
from sage.tuning.training.run import CancelledError, train

ROOT, FOLDER, TRAIN, EVAL = map(Path, sys.argv[1:])
RATE = {"learning_rate": 3e-3, "max_steps": 12, "threads": 1, "checkpoint_every": 4}


class StopAt(Stop):
    """Wants the job to stop when it has told of a step."""

    def __init__(self, job: JobWriter, step: int) -> None:
        self._job, self._step = job, step

    @property
    def is_asked(self) -> bool:  # type: ignore[override]
        events = self._job.folder / "events.jsonl"
        return f'"type": "step", "step": {self._step},' in events.read_text()


def made(name: str, **hyperparameters: Any) -> JobWriter:
    request = check_request(
        {
            "base_model": "sage/demo-chat",
            "dataset_path": TRAIN,
            "eval_dataset_path": EVAL,
            "output_dir": FOLDER / name,
            "strategy": "lora",
            "hyperparameters": RATE | hyperparameters,
        },
        root=ROOT,
        read_examples=False,
    )
    return JobWriter(make_job(make_plan(request)))


def told(name: str, job: JobWriter) -> None:
    from safetensors.numpy import load_file

    file = job.result / "adapter_model.safetensors"
    trained = json.loads((job.folder / "trained.json").read_bytes())
    events = map(json.loads, (job.folder / "events.jsonl").read_text().splitlines())
    print(
        json.dumps(
            {
                "name": name,
                "digest": hashlib.sha256(file.read_bytes()).hexdigest(),
                "some": load_file(file)[min(load_file(file))].ravel()[:64].tolist(),
                "losses": [event["loss"] for event in events if event["type"] == "step"],
                "steps": trained["steps"],
                "best_step": trained["best_step"],
            }
        ),
        flush=True,
    )


for name, more in {
    "one": {},
    "same": {},
    "parts": {"micro_batch_size": 4},
    "other seed": {"seed": 1},
    "dropout": {"dropout": 0.1},
    "early": {"max_steps": 60, "eval_every": 2, "early_stopping": 3, "learning_rate": 0.05},
}.items():
    job = made(name, **more)
    train(job, Stop())
    told(name, job)

for name, step, more in (
    ("dropout resumed", 6, {"dropout": 0.1}),
    ("early resumed", 5, {"max_steps": 60, "eval_every": 2, "early_stopping": 3,
                          "learning_rate": 0.05}),
):  # fmt: skip
    job = made(name, **more)
    try:
        train(job, StopAt(job, step))
    except CancelledError:
        train(job, Stop())
    told(name, job)

# A disk that is full within a checkpoint: here, files may not grow beyond a limit.
job = made("full disk")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with suppress(CancelledError):
    train(job, StopAt(job, 4))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    train(job, Stop())
except Exception as error:  # noqa: BLE001 - of whatever kind it is
    kept = sorted(path.name for path in job.checkpoints.glob("[0-9]*"))
    print(json.dumps({"name": "full disk", "error": str(error), "kept": kept}), flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
train(job, Stop())
told("full disk resumed", job)

# Memory that runs out.
job = made("no memory", batch_size=4096, micro_batch_size=1024)
status = Path("/proc/self/status").read_text().splitlines()
mapped = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (mapped + (64 << 20), resource.RLIM_INFINITY))
try:
    train(job, Stop())
except Exception as error:  # noqa: BLE001
    print(json.dumps({"name": "no memory", "error": str(error)}), flush=True)
