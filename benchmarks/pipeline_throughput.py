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

import time
from pathlib import Path
from typing import Any

from goals import Goals
from rich.console import Console
from rich.table import Table
from rounds import Results, Way, main
from workload import NEW_TOKENS, SAMPLING, environment, offline_batch, pipeline

from sage.common.service import BaseService
from sage.kernel.api import LocalEnvironment

CALLS_ONE_BY_ONE = 24


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


WAYS = {
    "a": Way(title="LLM.generate, defaults", run=offline_batch),
    "b": Way(
        title="LLM.generate, inline",
        run=offline_batch,
        variables={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
    ),
    "c": Way(title="pipeline, record by record", run=pipeline),
    "d": Way(title="one service call at a time", run=one_call_at_a_time),
}


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
    """Send records through source → 3 maps → sink."""
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


def report(results: Results) -> None:
    """Print medians, ratios and what the ratios should at least (or at most) be."""
    results.write("pipeline_throughput", "A pipeline and vLLM alone", ours="c")
    out = Console(width=100)
    first = {name: results.median(name, "first_token") for name in WAYS}
    table = Table("", "Way", "tokens/s", "start to first token", title="Throughput (medians)")
    for name, way in WAYS.items():
        rate = results.median(name, "tokens_per_second")
        table.add_row(f"({name})", way.title, f"{rate:,.0f}", f"{first[name]:.1f} s")
    out.print(table)
    goals = Goals()
    for other, target in (("a", 1.6), ("b", 1.1), ("d", 30.0)):
        goals.at_least(f"(c) / ({other}) tokens/s", results.ratio("c", other), target)
    goals.at_most("(c) / (a) start to first token", first["c"] / first["a"], 0.5)
    goals.at_least("call_service calls/s", calls_per_second(), 50_000, "{:,.0f}")
    goals.at_least("source → 3 maps → sink records/s", records_per_second(), 150_000, "{:,.0f}")
    out.print(goals.table)
    out.print(f"batch occupancy of (c): {results.median('c', 'batch_occupancy'):.0%}")
    out.print(f"engine options of all four: {results.options}")


if __name__ == "__main__" and (results := main(__doc__, WAYS, rounds=3)):
    report(results)
