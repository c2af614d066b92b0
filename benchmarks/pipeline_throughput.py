"""How fast a pipeline is against vLLM's own offline batch, in one run on one machine.

    python benchmarks/pipeline_throughput.py [--rounds 3] [--prompts 512]

The same prompts (8 to 48 words, 32 new tokens, greedy) go through a random Llama of 28 M
parameters in four ways, each in a process of its own, in turn, ``--rounds`` times:

    (a) LLM.generate with all prompts at once, vLLM's defaults (engine in a process of its own)
    (b) the same with the engine inline
    (c) a pipeline that hands over one record at a time, default settings
    (d) one service call at a time

All four get the engine options that the service chooses for a CPU (no compilation, a bounded KV
cache, float32 where 16 bits are slow), so that they differ in nothing but the way. What counts are
the ratios: absolute figures drift with the machine. The goals for (b) and (d) come from a CPU with
AMX; where the matrix products fill the processor, as with AVX2 alone, no way of feeding the engine
can be much faster than (b), and a batch gains less over single calls.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sage.common.components.sage_vllm.cpu_defaults import cpu_defaults
from sage.common.components.sage_vllm.tiny_model import write_tiny_model
from sage.common.model_registry.vllm_registry import import_model
from sage.common.service import BaseService
from sage.kernel.api import LocalEnvironment

MODEL_ID = "bench/llama-28m"
NEW_TOKENS = 32
SAMPLING = {"temperature": 0, "max_tokens": NEW_TOKENS, "ignore_eos": True}
CALLS_ONE_BY_ONE = 24
WORDS = "time year people way day man thing woman life child world school state family".split()


def make_prompts(count: int) -> list[str]:
    """Return prompts of 8 to 48 words, the same at each call."""
    rng = random.Random(1)
    return [" ".join(rng.choices(WORDS, k=rng.randint(8, 48))) for _ in range(count)]


# -- the ways; each runs in a child process and returns its figures --------------------------------


def offline_batch(model: Path, prompts: list[str], began: float) -> dict[str, float]:
    """(a) and (b): LLM.generate with all prompts."""
    from vllm import LLM, SamplingParams

    llm = LLM(str(model), **cpu_defaults(model, {}))
    llm.generate(prompts[0], SamplingParams(max_tokens=1), use_tqdm=False)
    first_token = time.time() - began
    params = SamplingParams(**SAMPLING)
    start = time.perf_counter()
    outputs = llm.generate(prompts[1:], params, use_tqdm=False)
    seconds = time.perf_counter() - start
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {"tokens_per_second": tokens / seconds, "first_token": first_token}


def pipeline(model: Path, prompts: list[str], began: float) -> dict[str, float]:
    """(c): a stream of records through VLLMServiceGenerator."""
    from sage.libs.operators.vllm_service import VLLMServiceGenerator

    tokens, finished = 0, 0.0

    def count(record: dict[str, Any]) -> None:
        nonlocal tokens, finished
        tokens += record["generation"]["tokens_used"]["completion"]
        finished = time.perf_counter()

    started: list[float] = []

    def one_at_a_time() -> Any:
        started.append(time.perf_counter())
        yield from prompts[1:]

    with environment(model) as env:
        env.call_service("vllm_service", prompts[0], method="generate", max_tokens=1)
        first_token = time.time() - began
        env.from_source(one_at_a_time).map(VLLMServiceGenerator, **SAMPLING).sink(count)
        env.submit(autostop=False)
        env.wait()
        occupancy = env.call_service("vllm_service", method="stats")["batch_occupancy"]
    return {
        "tokens_per_second": tokens / (finished - started[0]),
        "first_token": first_token,
        "batch_occupancy": occupancy,
    }


def one_call_at_a_time(model: Path, prompts: list[str], began: float) -> dict[str, float]:
    """(d): a loop of blocking calls."""
    with environment(model) as env:
        env.call_service("vllm_service", prompts[0], method="generate", max_tokens=1)
        first_token = time.time() - began
        calls = prompts[1 : 1 + CALLS_ONE_BY_ONE]
        start = time.perf_counter()
        for prompt in calls:
            env.call_service("vllm_service", prompt, method="generate", **SAMPLING)
        seconds = time.perf_counter() - start
    return {"tokens_per_second": NEW_TOKENS * len(calls) / seconds, "first_token": first_token}


def environment(model: Path) -> LocalEnvironment:
    """Return an environment with the service on a registry beside the model."""
    from sage.middleware.services.vllm import register_vllm_service

    root = model.parent / "registry"
    env = LocalEnvironment("bench")
    register_vllm_service(env, config={"model_id": MODEL_ID, "model_root": root})
    return env


WAYS: dict[
    str, tuple[str, Callable[[Path, list[str], float], dict[str, float]], dict[str, str]]
] = {
    "a": ("LLM.generate, defaults", offline_batch, {}),
    "b": ("LLM.generate, inline", offline_batch, {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}),
    "c": ("pipeline, record by record", pipeline, {}),
    "d": ("one call at a time", one_call_at_a_time, {}),
}


def run_way(way: str, folder: Path, count: int) -> dict[str, float]:
    """Run one way in a process of its own."""
    child = subprocess.run(
        [sys.executable, __file__, "--way", way, "--folder", str(folder), "--prompts", str(count)],
        env={
            **os.environ,
            "VLLM_LOGGING_LEVEL": "ERROR",
            **WAYS[way][2],
            "BEGAN": str(time.time()),
        },
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    figures: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return figures


# -- what the framework itself costs ---------------------------------------------------------------


class Identity(BaseService):
    """Returns its argument."""

    def process(self, payload: Any) -> Any:
        """Return the argument."""
        return payload


def calls_per_second(count: int = 200_000) -> float:
    """``call_service`` to a service that returns its argument, from one thread."""
    env = LocalEnvironment("calls")
    env.register_service("identity", Identity)
    with env:
        env.service_manager.start()
        call = env.service_manager.call_service
        start = time.perf_counter()
        for number in range(count):
            call("identity", number)
        return count / (time.perf_counter() - start)


def records_per_second(count: int = 500_000) -> float:
    """Records through source → 3 maps → sink."""
    seen: list[int] = []
    env = LocalEnvironment("records")
    stream = env.from_collection(range(count))
    for _ in range(3):
        stream = stream.map(lambda number: number + 1)
    stream.sink(seen.append)
    start = time.perf_counter()
    env.submit()
    seconds = time.perf_counter() - start
    if len(seen) != count:
        raise RuntimeError(f"{count} records went in and {len(seen)} came out")
    return count / seconds


# -- the table ----------------------------------------------------------------------------------


def report(results: dict[str, list[dict[str, float]]], options: dict[str, Any]) -> None:
    """Print medians, ratios and what the ratios should at least (or at most) be."""
    out = Console(width=100)
    rate = {way: _median(runs, "tokens_per_second") for way, runs in results.items()}
    first = {way: _median(runs, "first_token") for way, runs in results.items()}
    table = Table("", "Way", "tokens/s", "start to first token", title="Throughput (medians)")
    for way, (title, _, _) in WAYS.items():
        table.add_row(f"({way})", title, f"{rate[way]:,.0f}", f"{first[way]:.1f} s")
    out.print(table)
    goals = Table("Figure", "Measured", "Goal", "", title="Goals")

    def goal(name: str, value: float, target: float, form: str, *, most: bool = False) -> None:
        met = value <= target if most else value >= target
        sign = "at most" if most else "at least"
        goals.add_row(
            name, form.format(value), f"{sign} {form.format(target)}", "yes" if met else "NO"
        )

    for other, target in (("a", 1.6), ("b", 1.1), ("d", 30.0)):
        pairs = [
            c["tokens_per_second"] / o["tokens_per_second"]
            for c, o in zip(results["c"], results[other], strict=True)
        ]
        goal(f"(c) / ({other}) tokens/s", statistics.median(pairs), target, "{:.2f} x")
    goal("(c) / (a) start to first token", first["c"] / first["a"], 0.5, "{:.2f} x", most=True)
    goal("call_service calls/s", calls_per_second(), 50_000, "{:,.0f}")
    goal("source → 3 maps → sink records/s", records_per_second(), 150_000, "{:,.0f}")
    out.print(goals)
    out.print(f"batch occupancy of (c): {_median(results['c'], 'batch_occupancy'):.0%}")
    out.print(f"engine options of all four: {options}")


def _median(runs: list[dict[str, float]], figure: str) -> float:
    return statistics.median(run[figure] for run in runs)


def main() -> None:
    """Run all ways in turn, or one of them as a child."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--way", choices=sorted(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    prompts = make_prompts(arguments.prompts + 1)  # the first one warms up
    if arguments.way:
        run = WAYS[arguments.way][1]
        figures = run(arguments.folder / "model", prompts, float(os.environ["BEGAN"]))
        print(json.dumps(figures))
        return
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="sage-bench-") as name:
        folder = Path(name)
        write_tiny_model(folder / "model", hidden_size=512, layers=8, heads=8, vocab_size=8192)
        import_model(MODEL_ID, folder / "model", root=folder / "registry")
        for number in range(arguments.rounds):
            for way, (title, _, _) in WAYS.items():
                figures = run_way(way, folder, arguments.prompts)
                rate = figures["tokens_per_second"]
                print(f"round {number + 1}: ({way}) {title}: {rate:,.0f} tokens/s", file=sys.stderr)
                results[way].append(figures)
        options = cpu_defaults(folder / "model", {})
    report(results, options)


if __name__ == "__main__":
    main()
