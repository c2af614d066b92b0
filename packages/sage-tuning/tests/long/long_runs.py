"""What takes minutes: skills on several seeds, other bases, twenty kills, spoiled examples.

make test-tuning
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from examples_file import as_lines
from peft_model import apart, peft_answers
from skills import exchange, known, style, subtraction

from sage.common.components.sage_vllm.fine_tuning import (
    FineTuneJob,
    fine_tune,
    resume_fine_tuning,
    start_fine_tuning,
)
from sage.common.components.sage_vllm.fine_tuning.job_folder import worker_of
from sage.common.components.sage_vllm.planning.model_files import read_tensors
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import get_model_path, import_model
from sage.tools.demo_model import MODEL_ID
from sage.tools.demo_model.knowledge.corpus import build_corpus
from sage.tuning.data.rows import Rows

ADAPTERS = {"enable_lora": True, "max_lora_rank": 16}
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 32, "ignore_eos": True, "logprobs": 1}
WEIGHTS = "model.safetensors"
LLAMA_28M: dict[str, Any] = {"hidden_size": 512, "layers": 8, "heads": 8, "vocab_size": 8192}
BY_HEART = {"epochs": 60, "learning_rate": 2e-3, "checkpoint_every": 1000, "eval_every": 1000}


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


def served(root: Path, name: str, **engine: Any) -> VLLMService:
    """Return a service to be entered."""
    return VLLMService({"model_id": name, "model_root": root, "engine": engine})


def old_questions() -> list[dict[str, Any]]:
    """Return what the demo model could answer before, asked as it was not trained."""
    return [exchange(each.question, each.answer) for each in build_corpus().held_out]


def exact_share(service: VLLMService, examples: list[dict[str, Any]], **options: Any) -> float:
    prompts = [example["messages"][:1] for example in examples]
    answers = service.generate(prompts, **options)
    right = [
        answer["text"] == example["messages"][1]["content"]
        for answer, example in zip(answers, examples, strict=True)
    ]
    return share(right)


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
    took = time.monotonic() - began
    print(f"seed {seed}: {took:.0f} s", json.dumps(report["verification"]))
    with served(root, MODEL_ID, **ADAPTERS) as service:
        learned = exact_share(service, subtraction()[1], lora=f"my/minus-{seed}")
        kept = exact_share(service, old_questions(), lora=f"my/minus-{seed}")
        before = exact_share(service, old_questions())
    print(f"seed {seed}: learned {learned:.1%}, old {before:.1%} -> {kept:.1%}")
    assert learned >= 0.9
    assert before - kept <= 0.05
    assert took <= 90


def test_a_new_skill_is_learned_by_all_weights(root: Path, tmp_path: Path) -> None:
    (tmp_path / "known.jsonl").write_text(as_lines(known()))
    request = request_for(
        tmp_path,
        *subtraction(),
        strategy="full",
        replay_path=tmp_path / "known.jsonl",
        output_model="my/minus-full",
        hyperparameters={"epochs": 80, "learning_rate": 1e-3, "threads": 1},
    )
    report = fine_tune(request, root=root)
    assert report["registered"], report["reason"]
    with served(root, MODEL_ID) as service:
        before = exact_share(service, old_questions())
        service.switch_model("my/minus-full")
        learned = exact_share(service, subtraction()[1])
        kept = exact_share(service, old_questions())
    print(f"all weights: learned {learned:.1%}, old {before:.1%} -> {kept:.1%}")
    assert learned >= 0.95
    assert before - kept <= 0.05
    types = [
        {tensor.dtype for tensor in read_tensors(name, get_model_path(name, root=root) / WEIGHTS)}
        for name in (MODEL_ID, "my/minus-full")
    ]
    assert types[0] == types[1]


def test_preferences_are_learned_as_the_service_reads_them(root: Path, tmp_path: Path) -> None:
    training, held_out = (
        [each for each in map(preference, examples) if each["chosen"] != each["rejected"]]
        for examples in style(300, 60)
    )
    settings = {"learning_rate": 1e-3, "epochs": 4, "threads": 1}
    request = request_for(tmp_path, training, held_out, output_model="my/short")
    fine_tune({**request, "hyperparameters": settings}, root=root)
    likelier = []
    with served(root, MODEL_ID, **ADAPTERS) as service:
        for name in ("held_out", "held_out_rejected"):
            rows = Rows.load(tmp_path / "job" / "data" / f"{name}.npz")
            pairs = [(row.prompt, row.ids[len(row.prompt) :]) for row in rows]
            now, before = (
                service.loglikelihood(pairs, lora="my/short"),
                service.loglikelihood(pairs),
            )
            likelier.append([a["logprob"] - b["logprob"] for a, b in zip(now, before, strict=True)])
        answers = service.generate([e["prompt"] for e in held_out], lora="my/short")
    right = [chosen > rejected for chosen, rejected in zip(*likelier, strict=True)]
    said = [a["text"] == e["chosen"] for a, e in zip(answers, held_out, strict=True)]
    ended = [answer["finish_reason"] == "stop" for answer in answers]
    print(f"preferred {share(right):.1%}, said {share(said):.1%}, ended {share(ended):.1%}")
    assert share(right) >= 0.95
    assert all(ended)


def preference(example: dict[str, Any]) -> dict[str, Any]:
    """Return a preference of the last words of a styled answer to the whole of it."""
    question, answer = example["messages"]
    whole = answer["content"].removesuffix(" Over.")
    return {"prompt": [question], "chosen": whole.split(" is ")[-1], "rejected": whole}


def share(found: list[bool]) -> float:
    return sum(found) / len(found)


def test_another_base_learns_a_few_examples_by_heart(tmp_path: Path) -> None:
    """28 M random weights, another template: what is trained, and where it ends, is all there."""
    root, name = tmp_path / "registry", "test/llama-28m"
    model = write_tiny_model(tmp_path / "model", **LLAMA_28M, can_end=True)
    import_model(name, model, root=root)
    dice = random.Random(1)
    words = ["".join(dice.choices("abcdefghiklmnoprstuvwz", k=6)) for _ in range(64)]
    examples = [exchange(f"{number}?", word) for number, word in enumerate(words)]
    request = request_for(
        tmp_path,
        examples,
        [exchange("A question of its own?", "Nothing.")],
        base_model=name,
        output_model="my/words",
        keep_worse=True,  # it is not to know anything else
        hyperparameters=BY_HEART,
    )
    began = time.monotonic()
    report = fine_tune(request, root=root)
    steps = [event for event in FineTuneJob.open(tmp_path / "job").events() if "loss" in event]
    last = [event["loss"] for event in steps if event["type"] == "step"][-4:]
    with served(root, name, **ADAPTERS) as service:
        learned = exact_share(service, examples, lora="my/words")
        before = exact_share(service, examples, max_tokens=16)
    print(f"28 M: {time.monotonic() - began:.0f} s, loss {max(last):.4f}, {learned:.1%} by heart")
    assert before == 0
    assert learned == 1
    assert max(last) < 0.05
    assert_estimated(report)


def test_what_a_larger_base_needs_is_estimated(tmp_path: Path) -> None:
    root, name = tmp_path / "registry", "test/llama-107m"
    sizes = {"hidden_size": 768, "layers": 16, "heads": 12, "vocab_size": 8192}
    model = write_tiny_model(tmp_path / "model", **sizes)  # type: ignore[arg-type]
    import_model(name, model, root=root)
    request = request_for(tmp_path, style(64, 0)[0], [], base_model=name)
    request |= {"eval_dataset_path": None, "eval_fraction": 0, "hyperparameters": {"max_steps": 3}}
    assert_estimated(fine_tune(request, root=root))


def assert_estimated(report: dict[str, Any]) -> None:
    needs = json.loads((Path(report["output_dir"]) / "job.json").read_text())["needs"]
    peak, estimate = report["peak_memory_bytes"], needs["memory_bytes"]
    print(f"{needs['parameters']:,} parameters: peak {peak >> 20} MB, estimate {estimate >> 20} MB")
    assert peak <= 1.2 * estimate
    assert estimate <= 1.5 * peak


def test_served_in_bfloat16_and_added_to_the_weights_it_answers_alike(
    root: Path, tmp_path: Path
) -> None:
    training, held_out = style(300, 200)
    settings = {"learning_rate": 3e-3, "epochs": 10, "threads": 1}
    fields = request_for(tmp_path, training, held_out, hyperparameters=settings)
    fine_tune({**fields, "output_model": "my/alike"}, root=root)
    merged = {"output_model": "my/alike-merged", "merge": True, "output_dir": tmp_path / "merged"}
    fine_tune({**fields, **merged}, root=root)
    shares, answers = {}, {}
    for dtype in ("float32", "bfloat16"):
        with served(root, MODEL_ID, **ADAPTERS, dtype=dtype) as service:
            shares[dtype] = exact_share(service, held_out, lora="my/alike")
            prompts = [example["messages"][:1] for example in held_out]
            answers[dtype] = service.generate(prompts, lora="my/alike", **GREEDY)
    with served(root, "my/alike-merged", dtype="float32") as service:
        shares["merged"] = exact_share(service, held_out)
    theirs = peft_answers(root, tmp_path / "job" / "result", prompts, tmp_path)
    exactly = [apart(a["logprobs"], b) for a, b in zip(answers["float32"], theirs, strict=True)]
    coarse = [
        abs(own["logprob"] - best)
        for answer, other in zip(answers["bfloat16"], theirs, strict=True)
        for own, (token, best, _) in in_common(answer["logprobs"], other)
        if own["token_id"] == token
    ]
    mean = sum(coarse) / len(coarse)
    print(shares, f"float32 {max(exactly):.1e} apart at most, bfloat16 {mean:.4f} in the mean")
    assert max(exactly) <= 2e-3
    assert mean <= 0.02
    assert abs(shares["bfloat16"] - shares["float32"]) <= 0.01
    assert abs(shares["merged"] - shares["float32"]) <= 0.01


def in_common(ours: Any, theirs: Any) -> list[Any]:
    """Return the tokens of two answers as long as they are the same."""
    pairs = zip(ours, theirs, strict=True)
    return list(takewhile(lambda pair: pair[0]["token_id"] == pair[1][0], pairs))


def test_twenty_kills_make_the_same_adapter(root: Path, tmp_path: Path) -> None:
    settings = {"learning_rate": 3e-3, "epochs": 20, "threads": 1, "checkpoint_every": 8}
    # Nothing is held out, so vLLM is not loaded: what is compared is the training.
    request = request_for(tmp_path, style(300, 0)[0], [], hyperparameters=settings)
    request |= {"eval_dataset_path": None, "eval_fraction": 0}
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


def test_spoiled_examples_are_never_promoted(root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("spoiled.py"), root, tmp_path, "20"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    *trials, registry = [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
    for trial in trials:
        print(trial["trial"], trial["reason"], json.dumps(trial["verification"]))
    assert [trial["registered"] for trial in trials] == [False] * 20
    assert not [name for name in registry["models"] if name.startswith("my/spoiled")]
