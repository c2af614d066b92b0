"""What a Ray cluster costs and gives: calls, workers, replicas, and a real model on it.

    python benchmarks/cluster.py [--rounds 3] [--only calls workers here replicas model embed]

All is measured on this one machine, which is both the driver's and the cluster's. Each ratio is of
figures of the same round.

- calls: service calls per second through one replica whose engine echoes, 256 in flight, beside a
  Ray actor call for each.
- workers: dict records per second through three maps with parallelism=2, beside the same maps as
  Ray Data's row maps with ``preserve_order``.
- here: a pipeline of parallelism 1 in a RayEnvironment and in a LocalEnvironment.
- replicas: engines that sleep through their steps and cost no processor time. That measures our
  coordination alone, as with a GPU for each replica; it says nothing of a model.
- model: a random Llama of 28 M parameters in one replica, beside the same in a LocalEnvironment and
  beside Ray Data LLM, each given all cores, each in a process of its own.
- embed: the same model's embeddings, one replica and local.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from against_others import ALL_CORES, RAY_VARIABLES, ray_data
from goals import Goals
from rich.console import Console
from rich.table import Table
from workload import MODEL_ID, SAMPLING, make_prompts, write_model

from sage.common.components.sage_vllm.testing import (
    EchoEngine,
    SleepingEngine,
    write_echo_model,
)
from sage.common.model_registry import import_model
from sage.kernel.api import LocalEnvironment, RayEnvironment
from sage.libs.operators import VLLMEmbeddingOperator, VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service

LOGICAL_CPUS = 16  # what Ray is told: its processors are only counted
CALLS = 20_000
RECORDS = 200_000
STEP_SECONDS = 0.02
BATCH = 16
WORDS = 20
INIT = {"num_cpus": LOGICAL_CPUS, "object_store_memory": 200 << 20}

Figures = dict[str, float]


def register(env: Any, folder: Path, engine: Any, **config: Any) -> None:
    """Give an environment a service with an engine that needs no weights."""
    root = folder / "echo-registry"
    if not root.exists():
        import_model("bench/echo", write_echo_model(folder / "echo"), root=root)
    config = {"model_id": "bench/echo", "model_root": root, **config}
    register_vllm_service(env, config=config, engine_factory=engine)


@contextmanager
def on_ray(folder: Path, engine: Any, **settings: Any) -> Iterator[RayEnvironment]:
    """Give a RayEnvironment with such a service, whose replicas are up."""
    services = {"vllm_service": {"gpus": 0, "cpus": 1, **settings}}
    with RayEnvironment("bench", {"services": services}) as env:
        register(env, folder, engine)
        env.call_service("vllm_service", "warm up", method="generate", max_tokens=1)
        yield env


def rate_of(count: int, run: Callable[[], Any]) -> float:
    """Return how many per second."""
    began = time.perf_counter()
    run()
    return count / (time.perf_counter() - began)


# -- calls ----------------------------------------------------------------------------------------


def calls(folder: Path) -> Figures:
    """Service calls through a replica, and Ray's own actor calls."""
    import ray

    def through(env: RayEnvironment) -> None:
        manager = env.service_manager
        call = partial(manager.call_service_async, "vllm_service", method="generate", max_tokens=1)
        waiting = [call("one two") for _ in range(256)]
        for number in range(CALLS):
            waiting[number % 256].result()
            waiting[number % 256] = call("one two")

    with on_ray(folder, EchoEngine, replicas=1) as env:
        through(env)
        ours = rate_of(CALLS, partial(through, env))

    class Echo:
        async def call(self, data: bytes) -> bytes:
            return data

    actor = ray.remote(Echo).remote()

    def each() -> None:
        waiting = [actor.call.remote(b"one two").future() for _ in range(256)]
        for number in range(CALLS // 5):
            waiting[number % 256].result()
            waiting[number % 256] = actor.call.remote(b"one two").future()

    each()
    rays = rate_of(CALLS // 5, each)
    ray.kill(actor)
    return {"calls": ours, "one Ray call each": rays}


# -- workers --------------------------------------------------------------------------------------


def first(row: dict[str, Any]) -> dict[str, Any]:
    """Add a field."""
    return {**row, "a": row["id"] + 1}


def second(row: dict[str, Any]) -> dict[str, Any]:
    """Add another."""
    return {**row, "b": row["a"] * 2}


def third(row: dict[str, Any]) -> dict[str, Any]:
    """And another."""
    return {**row, "c": str(row["b"])}


def workers(_folder: Path) -> Figures:
    """Three maps with parallelism, ours and Ray Data's."""
    import ray

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(RECORDS):
            yield {"id": number, "text": "a record"}

    seen: list[int] = []
    last = [0.0, 0.0]

    def take(row: dict[str, Any]) -> None:
        if not seen:
            last[0] = time.perf_counter()
        seen.append(row["id"])
        last[1] = time.perf_counter()

    with RayEnvironment("bench") as env:
        stream = env.from_source(rows)
        for function in (first, second, third):
            stream = stream.map(function, parallelism=2)
        stream.sink(take)
        env.submit()
    assert seen == list(range(RECORDS))  # noqa: S101 - or the rate means nothing
    ours = (RECORDS - 1) / (last[1] - last[0])

    count = RECORDS // 10
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    began = time.perf_counter()
    data = ray.data.from_items([{"id": n, "text": "a record"} for n in range(count)])
    for function in (first, second, third):
        data = data.map(function, compute=ray.data.TaskPoolStrategy(2))
    found = [row["id"] for row in data.iter_rows()]
    theirs = count / (time.perf_counter() - began)
    assert found == list(range(count))  # noqa: S101
    return {"records": ours, "Ray Data row maps": theirs}


def here(_folder: Path) -> Figures:
    """Run a pipeline of parallelism 1: nothing of it leaves this process."""

    def run(make: Callable[[str], Any]) -> float:
        taken: list[int] = []
        with make("bench") as env:
            stream = env.from_collection(range(5 * RECORDS))
            for _ in range(3):
                stream = stream.map(abs)
            stream.sink(taken.append)
            return rate_of(5 * RECORDS, env.submit)

    kinds = {"on Ray": RayEnvironment, "local": LocalEnvironment}
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(6):
        for kind in list(kinds)[:: -1 if number % 2 else 1]:
            rates[kind].append(run(kinds[kind]))
    return {kind: statistics.median(found) for kind, found in rates.items()}


# -- replicas -------------------------------------------------------------------------------------


def replicas(folder: Path) -> Figures:
    """Sleeping engines: 1, 2, 4 and 8, and 4 whose answers' lengths are log-normal."""
    engine = partial(SleepingEngine, step_seconds=STEP_SECONDS, max_batch_size=BATCH)
    chance = random.Random(3)

    def even(count: int) -> list[str]:
        return [f"{n} " + "word " * (WORDS - 1) for n in range(count)]

    def skewed(count: int) -> list[str]:
        lengths = [int(WORDS * math.exp(chance.gauss(-0.32, 0.8))) for _ in range(count)]
        return [
            f"{n} " + "word " * max(0, min(8 * WORDS, each) - 1) for n, each in enumerate(lengths)
        ]

    def rate(count: int, prompts: list[str]) -> float:
        with on_ray(folder, engine, replicas=count) as env:
            done: list[int] = []
            stream = env.from_collection(prompts).map(VLLMServiceGenerator, max_tokens=512)
            stream.sink(lambda record: done.append(len(record["generated"].split())))
            began = time.perf_counter()
            env.submit(autostop=False)
            env.wait()
            return sum(done) / (time.perf_counter() - began)  # words

    each = 40 * BATCH
    return {
        **{str(n): rate(n, even(n * each)) for n in (1, 2, 4, 8)},
        "1, skewed": rate(1, skewed(each)),
        "4, skewed": rate(4, skewed(4 * each)),
    }


# -- a real model, each way in a process of its own -----------------------------------------------


def model_environment(model: Path, kind: str) -> Any:
    """Return an environment with the 28 M model."""
    if kind == "local":
        env: Any = LocalEnvironment("bench")
    else:
        cores = len(os.sched_getaffinity(0))
        services = {"vllm_service": {"replicas": 1, "gpus": 0, "cpus": cores}}
        env = RayEnvironment("bench", {"services": services, "ray_init": {"num_cpus": cores}})
    root = model.parent / "registry"
    register_vllm_service(env, config={"model_id": MODEL_ID, "model_root": root})
    return env


def through_model(
    kind: str, operator: str, model: Path, prompts: list[str], began: float
) -> Figures:
    """Return the steady rate and the seconds from the program's start to its end."""
    units, ended = 0, 0.0

    def generated(record: dict[str, Any]) -> None:
        nonlocal units, ended
        units += record["generation"]["tokens_used"]["completion"]
        ended = time.perf_counter()

    def embedded(_record: dict[str, Any]) -> None:
        nonlocal units, ended
        units += 1
        ended = time.perf_counter()

    with model_environment(model, kind) as env:
        if operator == "generate":
            env.call_service("vllm_service", prompts[0], method="generate", max_tokens=1)
        else:
            env.call_service("vllm_service", prompts[0], method="embed")
        stream = env.from_collection(prompts[1:])
        if operator == "generate":
            stream.map(VLLMServiceGenerator, **SAMPLING).sink(generated)
        else:
            stream.map(VLLMEmbeddingOperator).sink(embedded)
        start = time.perf_counter()
        env.submit(autostop=False)
        env.wait()
    return {"steady": units / (ended - start), "in all": time.time() - began}


def by_ray_data(model: Path, prompts: list[str], began: float) -> Figures:
    """Ray Data LLM."""
    found = ray_data(model, prompts, began)
    return {"steady": found["tokens_per_second"], "in all": found["in_all"]}


CHILDREN: Mapping[str, Callable[[Path, list[str], float], Figures]] = {
    "on Ray": partial(through_model, "ray", "generate"),
    "local": partial(through_model, "local", "generate"),
    "Ray Data LLM": by_ray_data,
    "embed on Ray": partial(through_model, "ray", "embed"),
    "embed local": partial(through_model, "local", "embed"),
}


def in_children(names: tuple[str, ...], folder: Path) -> Figures:
    """Run ways each in a process of its own; return their figures by way and name."""
    found: Figures = {}
    for name in names:
        variables = {**RAY_VARIABLES, **(ALL_CORES if name == "Ray Data LLM" else {})}
        child = subprocess.run(
            [sys.executable, __file__, "--way", name, "--folder", str(folder)],
            env={
                **os.environ,
                "VLLM_LOGGING_LEVEL": "ERROR",
                **variables,
                "BEGAN": str(time.time()),
            },
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        figures = json.loads(child.stdout.splitlines()[-1])
        found |= {f"{name}, {key}": value for key, value in figures.items()}
    return found


# -- tables ---------------------------------------------------------------------------------------

IN_PROCESS = {"calls": calls, "workers": workers, "here": here, "replicas": replicas}
APART = {"model": ("on Ray", "local", "Ray Data LLM"), "embed": ("embed on Ray", "embed local")}


def goals_of(name: str, rounds: list[Figures], goals: Goals) -> None:
    """Add what the figures of a part are to be."""

    def ratio(one: str, other: str, by: float = 1) -> float:
        return statistics.median(figures[one] / figures[other] / by for figures in rounds)

    if name == "calls":
        rate = statistics.median(figures["calls"] for figures in rounds)
        goals.at_least("service calls/s through a replica", rate, 20_000, "{:,.0f}")
        goals.at_least("the same / one Ray call each", ratio("calls", "one Ray call each"), 6)
    elif name == "workers":
        rate = statistics.median(figures["records"] for figures in rounds)
        goals.at_least("records/s through workers", rate, 50_000, "{:,.0f}")
        goals.at_least("the same / Ray Data row maps", ratio("records", "Ray Data row maps"), 10)
    elif name == "here":
        goals.at_least("parallelism 1, RayEnvironment / local", ratio("on Ray", "local"), 0.98)
    elif name == "replicas":
        goals.at_least("efficiency at 4 sleeping replicas", ratio("4", "1", 4), 0.95)
        goals.at_least("efficiency at 8", ratio("8", "1", 8), 0.9)
        goals.at_least("at 4, log-normal", ratio("4, skewed", "1, skewed", 4), 0.85)
    elif name == "model":
        goals.at_least("28 M, one replica / local", ratio("on Ray, steady", "local, steady"), 0.9)
        ours, theirs = "on Ray, steady", "Ray Data LLM, steady"
        goals.at_least("one replica / Ray Data LLM, steady", ratio(ours, theirs), 1.5)
        in_all = ratio("Ray Data LLM, in all", "on Ray, in all")
        goals.at_least("the same from start to end", in_all, 2)
    else:
        found = ratio("embed on Ray, steady", "embed local, steady")
        goals.at_least("embeddings, one replica / local", found, 0.85)


def measure(names: list[str], rounds: int, folder: Path) -> None:
    """Measure the parts in turn, and print their figures beside the goals."""
    out, goals = Console(width=100), Goals()
    for name in names:
        found = []
        for _ in range(rounds):
            if name in APART:
                found.append(in_children(APART[name], folder))
                continue
            import ray

            ray.init(log_to_driver=False, logging_level="ERROR", **INIT)
            try:
                found.append(IN_PROCESS[name](folder))
            finally:
                ray.shutdown()
        table = Table("", "median", "lowest", "highest", title=name)
        for key in found[0]:
            values = [figures[key] for figures in found]
            row = (statistics.median(values), min(values), max(values))
            table.add_row(key, *(f"{value:,.1f}" for value in row))
        out.print(table)
        goals_of(name, found, goals)
    out.print(goals.table)


def main() -> None:
    """Measure all, or one way as a child."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[*IN_PROCESS, *APART])
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--way", choices=sorted(CHILDREN), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    prompts = make_prompts(arguments.prompts + 1)
    if arguments.way:
        run = CHILDREN[arguments.way]
        print(json.dumps(run(arguments.folder / "model", prompts, float(os.environ["BEGAN"]))))
        return
    os.environ.update(RAY_VARIABLES)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # for the cluster's processes
    with tempfile.TemporaryDirectory(prefix="sage-bench-") as scratch:
        write_model(Path(scratch))
        measure(arguments.only or [*IN_PROCESS, *APART], arguments.rounds, Path(scratch))


if __name__ == "__main__":
    main()
