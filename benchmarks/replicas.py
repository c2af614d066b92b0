"""What replicas of a model gain, and what they lose when one of them dies.

    python benchmarks/replicas.py [--rounds 2]

The first table is of engines that sleep through their steps and cost no processor time: it
measures the coordination alone, as with a GPU for each replica. 4,000 requests of 16 words go
through one such engine, through four, and through four of which one dies in the middle.

The second is of vLLM, with the random Llama of 28 M parameters: one engine in a process of its own
on all cores, and two replicas with half of the cores each. The third is of the same engines and of
1,024 prompts with 64 stems of 256 tokens, in random order: how many prompt tokens were in a prefix
cache with one engine, with two behind the service's router, and with two behind a random one.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from goals import Goals
from rich.console import Console
from rich.table import Table
from workload import MODEL_ID, SAMPLING, WORDS, make_prompts, write_model

from sage.common.components.sage_vllm.driver.shared_engine import SharedEngine
from sage.common.components.sage_vllm.engine_contract import Engine, EngineSpec, Generation
from sage.common.components.sage_vllm.replicas.replicated_engine import ReplicatedEngine
from sage.common.components.sage_vllm.testing import SleepingEngine
from sage.common.replicas.router import PrefixRouter, Router

ANSWER_WORDS = 16
STEM_WORDS = 64  # some 256 tokens
STEP_SECONDS = 0.02
BATCH = 32
KV_CACHE = {"kv_cache_memory_bytes": 256 << 20}


class RandomRouter:
    """Chooses any replica that accepts calls."""

    def route(self, _prefix: str, in_flight: Sequence[int | None]) -> int | None:
        """Return the number of a replica; see Router."""
        numbers = [number for number, load in enumerate(in_flight) if load is not None]
        return random.choice(numbers) if numbers else None


# -- engines that sleep ---------------------------------------------------------------------------


def sleeping(count: int) -> list[SleepingEngine]:
    """Return engines that need no processor."""
    spec = EngineSpec(model_id=MODEL_ID, path=Path("unused"))
    arguments = {"step_seconds": STEP_SECONDS, "max_batch_size": BATCH, "rebuild_seconds": 2.0}
    return [SleepingEngine(spec, **arguments) for _ in range(count)]  # type: ignore[arg-type]


def ask(engine: Engine, count: int) -> list[Future[Generation]]:
    """Submit prompts that are their own answers."""
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    return [
        engine.submit(f"{number} {words} end", {"max_tokens": ANSWER_WORDS})
        for number in range(count)
    ]


def sleeping_rate(count: int, requests: int) -> float:
    """Return the requests per second of so many engines together."""
    whole = ReplicatedEngine(sleeping(count))
    began = time.perf_counter()
    for future in ask(whole, requests):
        future.result()
    rate = requests / (time.perf_counter() - began)
    whole.close()
    return rate


def with_a_death(requests: int) -> tuple[int, int, float]:
    """Return how many requests were lost, how many doubled, and the rate while one engine is away.

    The rate counts the requests that finish from the death until the engine is back.
    """
    engines = sleeping(4)
    whole = ReplicatedEngine(engines)
    futures = ask(whole, requests)
    while whole.stats().requests_done < requests // 4:
        time.sleep(0.005)
    done, died = whole.stats().requests_done, time.perf_counter()
    engines[1].die()
    while whole.replica_states[1] != "ready":
        time.sleep(0.005)
    rate = (whole.stats().requests_done - done) / (time.perf_counter() - died)
    texts = [future.result().completions[0].text.split()[0] for future in futures]
    lost = requests - len(set(texts))
    doubled = whole.stats().requests_done - requests
    whole.close()
    return lost, doubled, rate


# -- vLLM -----------------------------------------------------------------------------------------


def with_vllm(model: Path, count: int, router: Router, prompts: Sequence[str]) -> dict[str, float]:
    """Return tokens per second and the prefix cache's hit rate of so many engines."""
    spec = EngineSpec(model_id=MODEL_ID, path=model, mode="process", arguments=KV_CACHE)
    specs = (
        SharedEngine.replica_specs(replace(spec, replicas=count)) if count > 1 else [replace(spec)]
    )
    whole = ReplicatedEngine([SharedEngine(each) for each in specs], router)
    for future in [whole.submit("warm up", {"max_tokens": 1}) for _ in range(4)]:
        future.result()
    began = time.perf_counter()
    futures = [whole.submit(prompt, SAMPLING) for prompt in prompts]
    tokens = sum(future.result().completions[0].token_count for future in futures)
    seconds = time.perf_counter() - began
    hit_rate = whole.stats().prefix_cache_hit_rate
    whole.close()
    return {"tokens_per_second": tokens / seconds, "hit_rate": hit_rate}


def stemmed(count: int) -> list[str]:
    """Return prompts with 64 stems of some 256 tokens, in random order."""
    chance = random.Random(7)
    stems = [" ".join(chance.choices(WORDS, k=STEM_WORDS)) for _ in range(64)]
    prompts = [f"{stems[n % 64]} {chance.random()}" for n in range(count)]
    chance.shuffle(prompts)
    return prompts


# -- tables ---------------------------------------------------------------------------------------


def median(measure: Callable[[], float], rounds: int) -> float:
    """Return the median of several measurements."""
    return statistics.median(measure() for _ in range(rounds))


def main() -> None:
    """Measure, and print what was measured beside the goals."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    out, goals = Console(width=100), Goals()

    one = median(lambda: sleeping_rate(1, 1000), rounds)
    four = median(lambda: sleeping_rate(4, 4000), rounds)
    deaths = [with_a_death(4000) for _ in range(rounds)]
    away = statistics.median(rate for _, _, rate in deaths)
    table = Table("Engines that sleep", "requests/s", title="Coordination")
    table.add_row("one", f"{one:,.0f}")
    table.add_row("four", f"{four:,.0f}")
    table.add_row("four, while one of them is away", f"{away:,.0f}")
    out.print(table)
    goals.at_least("four / one", four / one, 3.6)
    goals.at_most("requests lost", max(lost for lost, _, _ in deaths), 0, "{:.0f}")
    goals.at_most("requests done twice", max(twice for _, twice, _ in deaths), 0, "{:.0f}")
    goals.at_least("while one is away / four", away / four, 0.7)

    with tempfile.TemporaryDirectory(prefix="sage-bench-") as scratch:
        model = write_model(Path(scratch))
        plain, stems = make_prompts(512), stemmed(1024)
        ways: dict[str, tuple[int, Router, Sequence[str]]] = {
            "one engine": (1, PrefixRouter(), plain),
            "two replicas": (2, PrefixRouter(), plain),
            "stems, one engine": (1, PrefixRouter(), stems),
            "stems, two replicas": (2, PrefixRouter(), stems),
            "stems, two replicas at random": (2, RandomRouter(), stems),
        }
        runs: dict[str, list[dict[str, float]]] = {title: [] for title in ways}
        for number in range(rounds):
            for title in list(ways)[:: -1 if number % 2 else 1]:
                runs[title].append(with_vllm(model, *ways[title]))
    table = Table("vLLM, 28 M Llama", "tokens/s", "prefix cache hits", title="Replicas")
    rates = {
        title: statistics.median(r["tokens_per_second"] for r in runs[title]) for title in ways
    }
    hits = {title: statistics.median(r["hit_rate"] for r in runs[title]) for title in ways}
    for title in ways:
        table.add_row(title, f"{rates[title]:,.0f}", f"{hits[title]:.0%}")
    out.print(table)
    goals.at_least("two replicas / one engine", rates["two replicas"] / rates["one engine"], 0.9)
    shared = hits["stems, two replicas"] / hits["stems, one engine"]
    goals.at_least("hit rate, two replicas / one engine", shared, 0.9)
    out.print(goals.table)


if __name__ == "__main__":
    main()
