"""One fine-tuning of the demo model, from its examples to answers of a service with the adapter."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples_file import as_lines
from peft_model import apart, ids, peft_answers
from skills import style

from sage.common.components.sage_vllm.fine_tuning import (
    FineTuneError,
    FineTuneJob,
    FineTuneJobError,
    fine_tune,
    fine_tune_jobs,
    resume_fine_tuning,
    start_fine_tuning,
)
from sage.common.components.sage_vllm.fine_tuning.job_folder import is_worked_on, worker_of
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.model_registry.vllm_registry import get_model, import_model
from sage.tools.demo_model import MODEL_ID

RATE = {"learning_rate": 3e-3, "epochs": 10, "threads": 1, "checkpoint_every": 20, "eval_every": 50}
ASKED = 60
GREEDY = {"temperature": 0, "max_tokens": 32, "ignore_eos": True, "logprobs": 1}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def root(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the demo model that is nobody else's."""
    return shutil.copytree(demo_root, tmp_path_factory.mktemp("demo") / "registry")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def request_fields(folder: Path) -> dict[str, Any]:
    training, held_out = style(300, ASKED)
    (folder / "train.jsonl").write_text(as_lines(training))
    (folder / "eval.jsonl").write_text(as_lines(held_out))
    return {
        "base_model": MODEL_ID,
        "dataset_path": folder / "train.jsonl",
        "eval_dataset_path": folder / "eval.jsonl",
        "output_dir": folder / "style",
        "strategy": "lora",
        "output_model": "my/style",
        "hyperparameters": RATE,
    }


@pytest.fixture(scope="module")
def report(root: Path, request_fields: dict[str, Any]) -> dict[str, Any]:
    return fine_tune(request_fields, root=root)


@pytest.fixture(scope="module")
def service(root: Path, report: dict[str, Any]) -> Iterator[VLLMService]:
    config = {
        "model_id": MODEL_ID,
        "model_root": root,
        "engine": {
            "enable_lora": True,
            "max_lora_rank": 16,
            "max_loras": 2,
            "max_num_seqs": 16,
            "dtype": "float32",
        },
    }
    with VLLMService(config) as opened:
        yield opened


def questions(folder: Path) -> list[Any]:
    """Return 200 prompts, of which 60 were held out."""
    files = [folder / f"{name}.jsonl" for name in ("eval", "train")]
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [json.loads(line)["messages"][:1] for line in lines[:200]]


def test_the_report_says_that_it_is_better_and_the_same_in_vllm(report: dict[str, Any]) -> None:
    assert (report["status"], report["better"], report["registered"]) == ("succeeded", True, True)
    before, after = report["evaluation"]["before"], report["evaluation"]["after"]
    assert before["exact_match"] == 0
    assert after["exact_match"] >= 0.95
    checked = report["verification"]
    assert checked["exact_match_vllm"] >= 0.95
    assert checked["exact_match_before"] == 0
    assert checked["changed_outputs"] == checked["questions"] == ASKED
    assert checked["plain_changed"] == 0
    assert checked["loss_gap"] < 0.03
    assert report["steps"] == 188
    needs = json.loads((Path(report["output_dir"]) / "job.json").read_text())["needs"]
    assert report["peak_memory_bytes"] <= 1.2 * needs["memory_bytes"]
    assert needs["memory_bytes"] <= 1.5 * report["peak_memory_bytes"]
    assert all(sample["after"].endswith("Over.") for sample in report["samples"])


def test_the_service_answers_with_the_adapter_and_without(
    service: VLLMService, folder: Path
) -> None:
    examples = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    prompts = [example["messages"][:1] for example in examples]
    expected = [example["messages"][1]["content"] for example in examples]
    asked: list[Any] = []
    for prompt in prompts:
        asked += [{"messages": prompt}, {"messages": prompt, "options": {"lora": "my/style"}}]
    texts = [answer["text"] for answer in service.generate(asked)]
    exact = sum(a == b for a, b in zip(texts[1::2], expected, strict=True))
    assert exact >= 0.95 * len(expected)
    assert texts[::2] == [answer["text"] for answer in service.generate(prompts)]
    assert sum(text + " Over." == b for text, b in zip(texts[::2], expected, strict=True)) > 50


def test_what_is_registered_while_a_service_runs_is_used_at_its_next_call(
    service: VLLMService, root: Path, report: dict[str, Any], folder: Path
) -> None:
    plain = service.generate(QUESTION)[0]["text"]
    began = time.monotonic()
    first = import_model("my/hot", folder / "style" / "result", root=root)
    assert service.generate(QUESTION, lora="my/hot")[0]["text"] == f"{plain} Over."
    assert time.monotonic() - began < 30  # it loads no model again, and waits for nothing
    assert {facts["loads"] for facts in service.stats()["models"].values()} == {1}
    again = shutil.copytree(folder / "style" / "result", folder / "again")
    (again / "notes.txt").write_text("trained again")
    assert import_model("my/hot", again, root=root).commit != first.commit
    both = [
        {"messages": QUESTION, "options": {"lora": name}}
        for name in ("my/hot", f"my/hot@{first.commit}")
    ]
    assert [each["text"] for each in service.generate(both)] == [f"{plain} Over."] * 2


def test_a_call_that_is_cancelled_stops_the_work(
    service: VLLMService, folder: Path, request_fields: dict[str, Any]
) -> None:
    fields = {
        **request_fields,
        "output_dir": folder / "called",
        "hyperparameters": {**RATE, "epochs": 1000},
    }
    before = own_memory()
    future = service.process_async({"task": "fine_tune", "inputs": fields})
    end = time.monotonic() + 120
    while not is_worked_on(folder / "called"):
        assert not future.done(), future.exception()
        assert time.monotonic() < end
        time.sleep(0.02)
    jobs = service.process({"task": "fine_tune_jobs", "options": {"folder": folder}})
    assert str(folder / "called") in {job["folder"] for job in jobs}
    assert future.cancel()
    state = FineTuneJob.open(folder / "called").wait(300)  # it has what others leave of processors
    assert state in ("cancelled", "interrupted")
    assert service.generate(QUESTION)[0]["text"]
    assert own_memory() - before < 50e6


def own_memory() -> int:
    """Return the bytes that this process has in memory now."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS"))


def test_vllm_says_token_by_token_what_transformers_with_peft_says(
    service: VLLMService, root: Path, folder: Path
) -> None:
    prompts = questions(folder)
    theirs = peft_answers(root, folder / "style" / "result", prompts, folder)
    ours = service.generate(prompts, lora="my/style", **GREEDY)
    differences = [apart(one["logprobs"], other) for one, other in zip(ours, theirs, strict=True)]
    assert len(differences) == 200
    assert max(differences) <= 2e-3


def test_beside_adapted_prompts_plain_ones_are_those_of_an_engine_without_adapters(
    service: VLLMService, root: Path, folder: Path
) -> None:
    prompts = questions(folder)
    both: list[Any] = []
    for prompt in prompts:
        both += [{"messages": prompt}, {"messages": prompt, "options": {"lora": "my/style"}}]
    mixed = service.generate(both, **GREEDY)[::2]
    config = {"model_id": MODEL_ID, "model_root": root, "engine": {"dtype": "float32"}}
    with VLLMService(config) as plain:
        alone = plain.generate(prompts, **GREEDY)
    assert [ids(answer) for answer in mixed] == [ids(answer) for answer in alone]


def test_a_fine_tuning_can_have_the_engine_make_room(
    service: VLLMService, folder: Path, request_fields: dict[str, Any]
) -> None:
    text = service.generate(QUESTION, lora="my/style")[0]["text"]
    short = {**RATE, "max_steps": 2}
    fields = {**request_fields, "output_dir": folder / "other" / "paused", "output_model": None}
    fields |= {"eval_dataset_path": None, "eval_fraction": 0, "hyperparameters": short}
    job = service.fine_tune_async({**fields, "while_training": "pause"})
    assert service.health()["state"] == "paused"
    waiting = service.generate_async(QUESTION, lora="my/style")
    assert not waiting.done()
    assert job.wait(300) == "succeeded"
    assert waiting.result(120)[0]["text"] == text
    end = time.monotonic() + 60
    while service.health()["state"] == "paused":  # until all that was freed is there again
        assert time.monotonic() < end
        time.sleep(0.02)
    assert service.health()["state"] == "ready"


def test_what_is_registered_says_where_it_comes_from_and_nothing_of_this_machine(
    root: Path, report: dict[str, Any], folder: Path
) -> None:
    model = get_model("my/style", root=root)
    base = get_model(MODEL_ID, root=root)
    assert model.commit == report["commit"]
    assert model.tags["type"] == "lora"
    assert (model.tags["base"], model.tags["base_commit"]) == (MODEL_ID, base.commit)
    assert (model.tags["method"], model.tags["strategy"], model.tags["rank"]) == ("sft", "lora", 16)
    names = {path.name for path in model.path.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "sage_fine_tune.json"}
    for path in model.path.iterdir():
        content = path.read_bytes()
        assert str(folder).encode() not in content
        assert str(root).encode() not in content
        assert str(Path.home()).encode() not in content
    config = json.loads((model.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == MODEL_ID


def test_a_job_tells_what_it_did(report: dict[str, Any], folder: Path) -> None:
    job = FineTuneJob.open(folder / "style")
    assert pickle.loads(pickle.dumps(job)).state == job.state == "succeeded"
    progress = job.progress
    assert (progress.step, progress.steps) == (188, 188)
    assert progress.tokens_per_second
    metrics = job.metrics()
    assert [row["step"] for row in metrics] == list(range(189))
    assert metrics[-1]["eval_loss"] < metrics[0]["eval_loss"]
    steps = [checkpoint["step"] for checkpoint in job.checkpoints()]
    assert steps == sorted({report["best_step"], 188})
    assert [each.id for each in fine_tune_jobs(folder) if each.state == "succeeded"] == [job.id]
    states = [event["state"] for event in job.events() if event["type"] == "state"]
    assert states == ["training", "verifying", "registering", "succeeded"]
    assert job.result() == report
    assert not job.cancel()
    with pytest.raises(FineTuneJobError, match="has succeeded already"):
        resume_fine_tuning(job.folder)


def wait_for_step(job: FineTuneJob, step: int) -> None:
    end = time.monotonic() + 300
    while job.progress.step < step and job.state in ("queued", "training"):
        assert time.monotonic() < end, job.state
        time.sleep(0.02)


def test_killed_three_times_it_makes_the_same_adapter(
    root: Path, report: dict[str, Any], folder: Path, request_fields: dict[str, Any]
) -> None:
    fields = {**request_fields, "output_dir": folder / "killed", "output_model": None}
    job = start_fine_tuning(fields, root=root)
    for step in (3, 50, 111):
        wait_for_step(job, step)
        with pytest.raises(FineTuneJobError, match="is being worked on already"):
            resume_fine_tuning(job.folder)
        worker = worker_of(job.folder)
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        assert job.wait(60) == "interrupted"
        end = time.monotonic() + 60
        while "was killed" not in job.reason and time.monotonic() < end:
            time.sleep(0.02)  # a thread of this process tells it
        assert "was killed (SIGKILL), by hand, or by the kernel for want of memory" in job.reason
        with pytest.raises(FineTuneError, match="was interrupted"):
            job.result()
        half = job.folder / "checkpoints" / ".000777.new"
        half.mkdir(parents=True)  # as one that was killed within a checkpoint leaves it
        job = resume_fine_tuning(job.folder)
    assert job.result(400)["registered"] is False
    undisturbed = folder / "style" / "result" / "adapter_model.safetensors"
    assert (job.folder / "result" / undisturbed.name).read_bytes() == undisturbed.read_bytes()
    assert [row["step"] for row in job.metrics()] == list(range(189))
    other = FineTuneJob.open(folder / "style")
    assert job.metrics() == other.metrics()


def test_a_job_that_is_cancelled_stops_with_a_checkpoint_and_goes_on(
    root: Path, folder: Path, request_fields: dict[str, Any]
) -> None:
    hyperparameters = {**RATE, "epochs": 200, "checkpoint_every": 10**6, "eval_every": 10**6}
    fields = {
        **request_fields,
        "output_dir": folder / "cancelled",
        "hyperparameters": hyperparameters,
    }
    job = start_fine_tuning(fields, root=root)
    wait_for_step(job, 2)
    assert job.cancel()
    assert job.wait(120) == "cancelled"
    with pytest.raises(FineTuneError, match="was cancelled"):
        job.result()
    (kept,) = job.checkpoints()
    assert kept["step"] >= 2
    fields["dataset_path"].touch()
    text = fields["dataset_path"].read_text()
    fields["dataset_path"].write_text(text + "\n")
    try:
        with pytest.raises(ValueError, match="is not what it was when this fine-tuning began"):
            resume_fine_tuning(job.folder)
    finally:
        fields["dataset_path"].write_text(text)


def test_training_that_goes_astray_says_so(
    root: Path, folder: Path, request_fields: dict[str, Any]
) -> None:
    fields = {
        **request_fields,
        "output_dir": folder / "astray",
        "hyperparameters": {**RATE, "learning_rate": 1e30, "max_grad_norm": 1e30},
    }
    with pytest.raises(FineTuneError, match=r"the loss of step .* lower the hyperparameter"):
        fine_tune(fields, root=root)
    assert FineTuneJob.open(folder / "astray").state == "failed"


def test_an_adapter_of_an_adapter_is_refused(
    root: Path, report: dict[str, Any], request_fields: dict[str, Any], folder: Path
) -> None:
    fields = {**request_fields, "base_model": "my/style", "output_dir": folder / "stacked"}
    with pytest.raises(ValueError, match="is an adapter, not a model"):
        start_fine_tuning(fields, root=root)
