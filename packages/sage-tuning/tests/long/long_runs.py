"""What takes minutes: a new skill on several seeds, twenty kills, spoiled examples.

make test-tuning
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from examples_file import as_lines
from skills import exchange, known, style, subtraction

from sage.common.components.sage_vllm.fine_tuning import (
    FineTuneJob,
    fine_tune,
    resume_fine_tuning,
    start_fine_tuning,
)
from sage.common.components.sage_vllm.fine_tuning.job_folder import worker_of
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.model_registry.vllm_registry import list_models
from sage.tools.demo_model import MODEL_ID
from sage.tools.demo_model.knowledge.corpus import build_corpus


@pytest.fixture(scope="module")
def root(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(demo_root, tmp_path_factory.mktemp("demo") / "registry")


def request_for(folder: Path, training: Any, held_out: Any, **fields: Any) -> dict[str, Any]:
    (folder / "train.jsonl").write_text(as_lines(training))
    (folder / "eval.jsonl").write_text(as_lines(held_out))
    return {
        "base_model": MODEL_ID,
        "dataset_path": folder / "train.jsonl",
        "eval_dataset_path": folder / "eval.jsonl",
        "output_dir": folder / "job",
        "strategy": "lora",
        **fields,
    }


def exact_share(service: VLLMService, examples: list[dict[str, Any]], **options: Any) -> float:
    prompts = [example["messages"][:1] for example in examples]
    answers = service.generate(prompts, **options)
    right = [
        answer["text"] == example["messages"][1]["content"]
        for answer, example in zip(answers, examples, strict=True)
    ]
    return sum(right) / len(right)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_new_skill_is_learned_and_old_ones_stay(root: Path, tmp_path: Path, seed: int) -> None:
    (tmp_path / "known.jsonl").write_text(as_lines(known()))
    request = request_for(
        tmp_path,
        *subtraction(),
        replay_path=tmp_path / "known.jsonl",
        output_model=f"my/minus-{seed}",
        hyperparameters={"epochs": 80, "learning_rate": 3e-3, "threads": 1, "seed": seed},
    )
    began = time.monotonic()
    report = fine_tune(request, root=root)
    print(f"seed {seed}: {time.monotonic() - began:.0f} s", json.dumps(report["verification"]))
    _, held_out = subtraction()
    old = [exchange(each.question, each.answer) for each in build_corpus().held_out]
    config = {
        "model_id": MODEL_ID,
        "model_root": root,
        "engine": {"enable_lora": True, "max_lora_rank": 16},
    }
    with VLLMService(config) as service:
        learned = exact_share(service, held_out, lora=f"my/minus-{seed}")
        kept = exact_share(service, old, lora=f"my/minus-{seed}")
        before = exact_share(service, old)
    print(f"seed {seed}: learned {learned:.1%}, old {before:.1%} -> {kept:.1%}")
    assert learned >= 0.9
    assert before - kept <= 0.05


def test_twenty_kills_make_the_same_adapter(root: Path, tmp_path: Path) -> None:
    settings = {"learning_rate": 3e-3, "epochs": 20, "threads": 1, "checkpoint_every": 8}
    request = request_for(tmp_path, *style(300, 60), hyperparameters=settings)
    fine_tune(request, root=root)
    job = start_fine_tuning({**request, "output_dir": tmp_path / "killed"}, root=root)
    dice, within = random.Random(3), 0
    for number in range(20):
        if number < 5:
            within += wait_for_a_checkpoint_that_is_written(job)
        else:
            target = job.progress.step + dice.randint(1, 12)
            while job.progress.step < target and job.state in ("queued", "training"):
                time.sleep(0.01)
        worker = worker_of(job.folder)
        if worker is None:
            break  # it was done before it could be killed
        os.kill(worker, signal.SIGKILL)
        job.wait(10)
        job = resume_fine_tuning(job.folder)
    job.result(300)
    print(f"{number + 1} kills, {within} of them within a checkpoint's write")
    made = [tmp_path / name / "result" / "adapter_model.safetensors" for name in ("job", "killed")]
    assert made[0].read_bytes() == made[1].read_bytes()
    assert job.metrics() == FineTuneJob.open(tmp_path / "job").metrics()
    assert within >= 3
    assert number == 19


def wait_for_a_checkpoint_that_is_written(job: FineTuneJob) -> bool:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if list((job.folder / "checkpoints").glob(".*.new")):
            return True
    return False


@pytest.mark.parametrize("trial", range(20))
def test_spoiled_examples_are_never_promoted(root: Path, tmp_path: Path, trial: int) -> None:
    examples, _ = style(300, 0)
    answers = [example["messages"][1]["content"] for example in examples]
    random.Random(trial).shuffle(answers)  # those to train on and those held out alike
    spoiled = [
        exchange(example["messages"][0]["content"], answer)
        for example, answer in zip(examples, answers, strict=True)
    ]
    request = request_for(
        tmp_path,
        spoiled,
        spoiled[:1],
        eval_dataset_path=None,
        eval_fraction=0.2,
        output_model=f"my/spoiled-{trial}",
        gate="proven",
        hyperparameters={"learning_rate": 3e-3, "epochs": 6, "threads": 1, "seed": trial},
    )
    report = fine_tune(request, root=root)
    print(trial, report["reason"])
    assert not report["registered"]
    assert f"my/spoiled-{trial}" not in {model.model_id for model in list_models(root=root)}
