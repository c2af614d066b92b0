"""How fast fine-tuning is beside plain TRL, and what it costs the calls of a service.

    python benchmarks/fine_tuning.py [--rounds 3] [--prompts 256]

Each way is a process of its own, in turn. Trained are adapters of rank 16, three epochs of prompts
with half of them as answers, in steps of 16:

    (a) a job of isage-tuning: its process, its checkpoints and events among it
    (b) TRL's SFTTrainer, set as (a) sets it
    (c) TRL's SFTTrainer, with its own defaults

Served are 8 callers in a closed loop, 32 tokens each:

    (d) alone
    (e) beside a job that trains
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from goals import Goals
from rich.console import Console
from rich.table import Table
from rounds import Results, Way, main

from sage.common.components.sage_vllm.fine_tuning import FineTuneJob, start_fine_tuning
from sage.common.components.sage_vllm.host.own_memory import own_memory
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.model_registry.vllm_registry import import_model

MODEL = "bench/model"
SECONDS = 20.0
CALLERS = 8


def _request(folder: Path, model: Path, prompts: list[str], epochs: int = 3) -> dict[str, Any]:
    """Register the model in a folder and return a request to train it on the prompts."""
    import_model(MODEL, model, link=True, root=folder / "registry")
    file = folder / "examples.jsonl"
    with file.open("w") as lines:
        for prompt, completion in _halves(prompts):
            lines.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
    return {
        "base_model": MODEL,
        "dataset_path": file,
        "output_dir": folder / "job",
        "strategy": "lora",
        "eval_fraction": 0,
        "hyperparameters": {"epochs": epochs},
    }


def _halves(prompts: list[str]) -> list[tuple[str, str]]:
    """Return each text as two, cut before the blank that is nearest behind its middle."""
    places = [max(text.find(" ", len(text) // 2), len(text) // 2) for text in prompts]
    return [(text[:place], text[place:]) for text, place in zip(prompts, places, strict=True)]


def job(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """Run (a), and measure from its first step to the last all that happens in between."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = start_fine_tuning(_request(folder, model, prompts), root=folder / "registry")
        running.result()
        return _rate(running)


def _rate(done: FineTuneJob) -> dict[str, float]:
    needs = json.loads((done.folder / "job.json").read_text())
    steps = [event for event in done.events() if event["type"] == "step"]
    seconds = steps[-1]["at"] - steps[0]["at"]
    tokens = 3 * needs["report"]["tokens"]["total"] * (len(steps) - 1) / len(steps)
    peak = max(event["memory_bytes"] for event in steps)
    return {
        "tokens_per_second": tokens / seconds,
        "memory_of_estimate": peak / needs["needs"]["memory_bytes"],
        "saving": _seconds_of_saves(done) / seconds,
    }


def _seconds_of_saves(done: FineTuneJob) -> float:
    """Return how long checkpoints were written before the last step; each follows its step."""
    seconds, since = 0.0, 0.0
    for event in done.events():
        if event["type"] == "checkpoint" and event["step"] < done.progress.steps:
            seconds += event["at"] - since
        since = event["at"]
    return seconds


def trl_alike(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """(b)."""
    given = {
        "per_device_train_batch_size": 16,
        "gradient_checkpointing": False,
        "max_length": None,
        "bf16": False,
        "learning_rate": 2e-4,
        "train_sampling_strategy": "group_by_length",
    }
    return _trl(model, prompts, given)


def trl_defaults(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """(c)."""
    return _trl(model, prompts, {})


def _trl(model: Path, prompts: list[str], given: dict[str, Any]) -> dict[str, float]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is Any here
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    halves = _halves(prompts)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokens = sum(len(tokenizer(a)["input_ids"]) + len(tokenizer(b)["input_ids"]) + 1
                 for a, b in halves)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
            args=SFTConfig(output_dir=folder, use_cpu=True, num_train_epochs=3, disable_tqdm=True,
                           save_strategy="no", report_to="none", **given),
            train_dataset=Dataset.from_list([{"prompt": a, "completion": b} for a, b in halves]),
            processing_class=tokenizer,
            callbacks=[Clock()],
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
        )  # fmt: skip
        trainer.train()
    rate = 3 * tokens * (len(ends) - 1) / len(ends) / (ends[-1] - ends[0])
    return {"tokens_per_second": rate}


def serve(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """(d)."""
    return _serve(model, prompts, beside=False)


def serve_beside(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """(e)."""
    return _serve(model, prompts, beside=True)


def _serve(model: Path, prompts: list[str], *, beside: bool) -> dict[str, float]:
    latencies: list[float] = []
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request = _request(folder, model, prompts, epochs=10**4)
        config = {"model_id": MODEL, "model_root": folder / "registry"}
        with VLLMService(config) as service:
            service.generate(prompts[:CALLERS], max_tokens=32)
            before = own_memory()
            running = service.fine_tune_async(request) if beside else None
            first = _wait_for_step(running) if running else 0
            end = time.monotonic() + SECONDS

            def call(number: int) -> None:
                nonlocal failed
                while time.monotonic() < end:
                    since = time.perf_counter()
                    try:
                        service.generate(prompts[number], max_tokens=32, ignore_eos=True)
                    except Exception:  # noqa: BLE001 - counted
                        failed += 1
                    latencies.append(time.perf_counter() - since)

            callers = [threading.Thread(target=call, args=(n,)) for n in range(CALLERS)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
            steps = running.progress.step - first if running else 0
            if running:
                running.cancel()
                running.wait()
            grown = own_memory() - before
    ordered = sorted(latencies)
    return {
        "tokens_per_second": 32 * len(ordered) / SECONDS,
        "p50": 1000 * statistics.median(ordered),
        "p99": 1000 * ordered[int(len(ordered) * 0.99)],
        "failed": failed,
        "steps": steps,
        "grown": grown / 1e6,
    }


def _wait_for_step(running: FineTuneJob) -> int:
    while not (step := running.progress.step):
        if running.state not in ("queued", "training"):
            raise RuntimeError(running.reason)
        time.sleep(0.1)
    return step


WAYS = {
    "a": Way(title="a job of isage-tuning", run=job),
    "b": Way(title="TRL, set alike", run=trl_alike, variables={"OMP_WAIT_POLICY": "passive"}),
    "c": Way(title="TRL, its defaults", run=trl_defaults),
    "d": Way(title="8 callers alone", run=serve),
    "e": Way(title="8 callers beside a job", run=serve_beside),
}


def report(results: Results) -> None:
    """Print medians and ratios."""
    out = Console(width=100)
    table = Table("", "Way", "tokens/s", "p50 ms", "p99 ms", title="Fine-tuning (medians)")
    for name, way in WAYS.items():
        figures = [f"{results.median(name, 'tokens_per_second'):,.0f}"]
        if name in "de":
            figures += [f"{results.median(name, figure):,.0f}" for figure in ("p50", "p99")]
        table.add_row(f"({name})", way.title, *figures)
    out.print(table)
    goals = Goals()
    goals.at_least("(a) / (b) tokens/s", results.ratio("a", "b"), 1.0)
    goals.at_least("(a) / (c) tokens/s", results.ratio("a", "c"), 1.3)
    goals.at_most("(a) peak memory / estimate", results.median("a", "memory_of_estimate"), 1.2)
    least = 1 / results.median("a", "memory_of_estimate")
    goals.at_most("(a) estimate / peak memory", least, 1.5)
    goals.at_most("(a) share of checkpoints", results.median("a", "saving"), 0.02, "{:.3f}")
    goals.at_most("(e) / (d) p50", results.ratio("e", "d", "p50"), 1.3)
    goals.at_most("(e) / (d) p99", results.ratio("e", "d", "p99"), 2.0)
    goals.at_least("(e) / (d) tokens/s", results.ratio("e", "d"), 0.8)
    goals.at_most("(e) calls that failed", results.median("e", "failed"), 0, "{:.0f}")
    goals.at_least("(e) steps in 10 s", results.median("e", "steps") * 10 / SECONDS, 1, "{:.1f}")
    goals.at_most("(e) growth of who serves", results.median("e", "grown"), 50, "{:.0f} MB")
    out.print(goals.table)
    out.print(f"{len(os.sched_getaffinity(0))} cores")


if __name__ == "__main__" and (results := main(__doc__, WAYS, rounds=3, prompts=256)):
    report(results)
