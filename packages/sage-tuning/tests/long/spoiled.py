"""Trains adapters on shuffled answers, and has each judged as `improve` would have it.

python spoiled.py REGISTRY FOLDER COUNT

Prints a line of JSON for each. One process trains all of them and then verifies all of them: its
imports and vLLM's, which each job would make anew, are what most of a job's time goes into.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from examples_file import as_lines
from skills import exchange, style

from sage.common.components.sage_vllm.fine_tuning import check_request
from sage.common.model_registry.vllm_registry import list_models
from sage.tools.demo_model import MODEL_ID
from sage.tuning.job.making import make_job
from sage.tuning.job.writer import JobWriter
from sage.tuning.plan import make_plan
from sage.tuning.training.progress import Stop
from sage.tuning.training.run import train
from sage.tuning.verification.run import verify

ROOT, FOLDER, COUNT = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])


def spoiled(trial: int) -> JobWriter:
    examples, _ = style(300, 0)
    answers = [example["messages"][1]["content"] for example in examples]
    random.Random(trial).shuffle(answers)  # those to train on and those held out alike
    file = FOLDER / f"{trial}.jsonl"
    pairs = zip(examples, answers, strict=True)
    file.write_text(as_lines([exchange(e["messages"][0]["content"], a) for e, a in pairs]))
    request = {
        "base_model": MODEL_ID,
        "dataset_path": file,
        "output_dir": FOLDER / f"job-{trial}",
        "strategy": "lora",
        "eval_fraction": 0.2,
        "output_model": f"my/spoiled-{trial}",
        "gate": "proven",
        "hyperparameters": {"learning_rate": 3e-3, "epochs": 6, "threads": 1, "seed": trial},
    }
    return JobWriter(make_job(make_plan(check_request(request, root=ROOT, read_examples=False))))


if __name__ == "__main__":
    jobs = [spoiled(trial) for trial in range(COUNT)]
    for job in jobs:
        train(job, Stop())
    for trial, job in enumerate(jobs):
        verify(job, Stop())
        report = json.loads((job.folder / "report.json").read_bytes())
        told = {name: report[name] for name in ("registered", "reason", "verification")}
        print(json.dumps({"trial": trial, **told}), flush=True)
    print(json.dumps({"models": [model.model_id for model in list_models(root=ROOT)]}))
