"""What a Ray cluster costs and gives: calls, workers, replicas, and a real model on it.

    python benchmarks/cluster.py [--rounds 3] [--only calls workers here replicas start model embed]

All is measured on this one machine, which is both the driver's and the cluster's. Each ratio is of
figures of the same round, and each goal is for the median over the rounds.

- calls: service calls per second through one replica whose engine echoes, 512 in flight, beside a
  Ray actor call for each, and beside the same service in a LocalEnvironment.
- workers: dict records per second through three maps with parallelism=2, beside the same maps as
  Ray Data's row maps with ``preserve_order``; how much memory the driver gains over all of the
  records, and what Ray wrote to the disk because its store was full.
- here: a pipeline of parallelism 1 in a RayEnvironment and in a LocalEnvironment.
- replicas: engines that sleep through their steps and cost no processor time. That measures our
  coordination alone, as with a GPU for each replica; it says nothing of a model.
- start: seconds to the first answer of the model below on a cluster that runs, and without one.
- model: a random Llama of 28 M parameters in one replica, beside the same in a LocalEnvironment and
  beside Ray Data LLM, each given all cores, each in a process of its own.
- embed: the same model's embeddings, one replica and local.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from against_others import RAY_VARIABLES
from cluster_models import Figures, in_children
from goals import Goals
from rich.console import Console
from rich.table import Table
from workload import write_model

from sage.common.components.sage_vllm.host.own_memory import own_memory
from sage.common.components.sage_vllm.testing import (
    EchoEngine,
    SleepingEngine,
    write_echo_model,
)
from sage.common.model_registry import import_model
from sage.kernel.api import LocalEnvironment, RayEnvironment
from sage.libs.operators import VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service

LOGICAL_CPUS = 8  # what Ray is told: its processors are only counted
IN_FLIGHT = 512  # as an engine with a batch of 256 can make use of
CALLS = 60_000
RECORDS = 1_000_000
RAY_DATA_RECORDS = 20_000  # it needs as long for these
STEP_SECONDS = 0.02
BATCH = 16
WORDS = 20
INIT = {"address": "local", "num_cpus": LOGICAL_CPUS, "object_store_memory": 200 << 20}
LONGEST_WAIT = 30.0  # seconds, for a machine that is still
STILL = 0.1  # of it is busy at most


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

    def through(env: Any, count: int) -> None:
        manager = env.service_manager
        call = partial(manager.call_service_async, "vllm_service", method="generate", max_tokens=1)
        keep_in_flight(partial(call, "one two"), count)

    with on_ray(folder, EchoEngine, replicas=1, max_in_flight=IN_FLIGHT) as env:
        through(env, CALLS // 4)
        ours = rate_of(CALLS, partial(through, env, CALLS))
    with LocalEnvironment("bench") as here:
        register(here, folder, EchoEngine)
        here.call_service("vllm_service", "warm up", method="generate", max_tokens=1)
        local = rate_of(CALLS, partial(through, here, CALLS))

    class Echo:
        async def call(self, data: bytes) -> bytes:
            return data

    actor = ray.remote(Echo).remote()
    each = partial(keep_in_flight, lambda: actor.call.remote(b"one two").future())
    each(CALLS // 40)
    rays = rate_of(CALLS // 10, partial(each, CALLS // 10))
    ray.kill(actor)
    return {"calls": ours, "one Ray call each": rays, "local": local}


def keep_in_flight(call: Callable[[], Any], count: int) -> None:
    """Make calls, each once an earlier one is answered."""
    waiting = [call() for _ in range(IN_FLIGHT)]
    for number in range(count - IN_FLIGHT):
        waiting[number % IN_FLIGHT].result()
        waiting[number % IN_FLIGHT] = call()
    for each in waiting:
        each.result()


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

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(RECORDS):
            yield {"id": number, "text": "a record"}

    taken, began, ended = 0, 0.0, 0.0
    resident = [0]  # now and then

    def take(row: dict[str, Any]) -> None:
        nonlocal taken, began, ended
        assert row["id"] == taken  # noqa: S101 - or the rate means nothing
        ended = time.perf_counter()
        began = began or ended
        if taken % 5_000 == 0:
            resident.append(own_memory())
        taken += 1

    with RayEnvironment("bench") as env:
        stream = env.from_source(rows)
        for function in (first, second, third):
            stream = stream.map(function, parallelism=2)
        stream.sink(take)
        env.submit(autostop=False)
        resident[0] = own_memory()
        env.wait()
        spilled = spilled_bytes()
    return {
        "records": (taken - 1) / (ended - began),
        "Ray Data row maps": ray_data_rows(),
        "driver's growth, MB": (max(resident) - resident[0]) / 1e6,
        "spilled, MB": spilled / 1e6,
    }


def ray_data_rows() -> float:
    """Return how many rows a second Ray Data's maps of one row make."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    began = time.perf_counter()
    data = ray.data.from_items([{"id": n, "text": "a record"} for n in range(RAY_DATA_RECORDS)])
    for function in (first, second, third):
        data = data.map(function, compute=ray.data.TaskPoolStrategy(2))
    found = [row["id"] for row in data.iter_rows()]
    seconds = time.perf_counter() - began
    assert found == list(range(RAY_DATA_RECORDS))  # noqa: S101
    return RAY_DATA_RECORDS / seconds


def spilled_bytes() -> int:
    """Return what Ray wrote to the disk so far because its store was full."""
    import ray
    from ray._private import internal_api  # nothing that is public says it

    state = internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)
    spilled: int = internal_api.get_memory_info_reply(state).store_stats.spilled_bytes_total
    return spilled


def here(_folder: Path) -> Figures:
    """Run a pipeline of parallelism 1: nothing of it leaves this process."""

    def run(make: Callable[[str], Any]) -> float:
        taken: list[int] = []
        with make("bench") as env:
            stream = env.from_collection(range(3 * RECORDS))
            for _ in range(3):
                stream = stream.map(abs)
            stream.sink(taken.append)
            return rate_of(3 * RECORDS, env.submit)

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


def start(folder: Path) -> Figures:
    """Return the seconds to the first answer: on the cluster that there is, and without one."""
    import ray

    address = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    return in_children(("start on Ray",), folder, address) | in_children(("start local",), folder)


# -- tables ---------------------------------------------------------------------------------------

ON_OUR_CLUSTER = {
    "calls": calls,
    "workers": workers,
    "here": here,
    "replicas": replicas,
    "start": start,
}
ALONE = {
    "model": partial(in_children, ("on Ray", "local", "Ray Data LLM")),
    "embed": partial(in_children, ("embed on Ray", "embed local")),
}


def goals_of(name: str, rounds: list[Figures], goals: Goals) -> None:
    """Add what the figures of a part are to be."""

    def median(figure: str) -> float:
        return statistics.median(figures[figure] for figures in rounds)

    def ratio(one: str, other: str, by: float = 1) -> float:
        return statistics.median(figures[one] / figures[other] / by for figures in rounds)

    if name == "calls":
        goals.at_least("service calls/s through a replica", median("calls"), 20_000, "{:,.0f}")
        goals.at_least("the same / one Ray call each", ratio("calls", "one Ray call each"), 6)
    elif name == "workers":
        goals.at_least("records/s through workers", median("records"), 50_000, "{:,.0f}")
        goals.at_least("the same / Ray Data row maps", ratio("records", "Ray Data row maps"), 10)
        growth = "driver's growth, MB"
        goals.at_most(f"{growth}, {RECORDS:,} records", median(growth), 50, "{:.0f}")
        goals.at_most("spilled, MB", median("spilled, MB"), 0, "{:.0f}")
    elif name == "here":
        goals.at_least("parallelism 1, RayEnvironment / local", ratio("on Ray", "local"), 0.98)
    elif name == "replicas":
        goals.at_least("efficiency at 4 sleeping replicas", ratio("4", "1", 4), 0.95)
        goals.at_least("efficiency at 8", ratio("8", "1", 8), 0.9)
        goals.at_least("at 4, log-normal", ratio("4, skewed", "1, skewed", 4), 0.85)
    elif name == "start":
        more = statistics.median(
            figures["start on Ray, seconds"] - figures["start local, seconds"] for figures in rounds
        )
        goals.at_most("first answer on a running cluster, above local", more, 3, "{:.1f} s")
    elif name == "model":
        goals.at_least("28 M, one replica / local", ratio("on Ray, steady", "local, steady"), 0.9)
        ours, theirs = "on Ray, steady", "Ray Data LLM, steady"
        goals.at_least("one replica / Ray Data LLM, steady", ratio(ours, theirs), 1.5)
        in_all = ratio("Ray Data LLM, in all", "on Ray, in all")
        goals.at_least("the same from start to end", in_all, 2)
    else:
        found = ratio("embed on Ray, steady", "embed local, steady")
        goals.at_least("embeddings, one replica / local", found, 0.85)


@contextmanager
def our_cluster() -> Iterator[None]:
    """Start a cluster, and wait until it is still: it starts a process for each processor."""
    import ray

    ray.init(log_to_driver=False, logging_level="ERROR", **INIT)
    try:
        deadline = time.monotonic() + LONGEST_WAIT
        while (busy := busy_share()) > STILL and time.monotonic() < deadline:
            pass
        if busy > STILL:
            print(f"the machine does other things: {busy:.0%} of it is busy", file=sys.stderr)
        yield
    finally:
        ray.shutdown()


def busy_share() -> float:
    """Return which share of the processors is in use, over a second."""

    def times() -> tuple[int, int]:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        each = [int(field) for field in fields]
        return sum(each), each[3] + each[4]  # idle, and waiting for a disk

    before = times()
    time.sleep(1)
    total, idle = (now - then for now, then in zip(times(), before, strict=True))
    return 1 - idle / total


def a_round(name: str, folder: Path) -> Figures:
    """Measure a part once."""
    if name in ALONE:
        return ALONE[name](folder)
    with our_cluster():
        return ON_OUR_CLUSTER[name](folder)


def main() -> None:
    """Measure the parts in turn, and print their figures beside the goals."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = [*ON_OUR_CLUSTER, *ALONE]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    arguments = parser.parse_args()
    os.environ.update(RAY_VARIABLES)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # for the cluster's processes
    out, goals = Console(width=100), Goals()
    with tempfile.TemporaryDirectory(prefix="sage-bench-") as scratch:
        write_model(Path(scratch))
        for name in arguments.only:
            found = [a_round(name, Path(scratch)) for _ in range(arguments.rounds)]
            table = Table("", "median", "lowest", "highest", title=f"{name}, {len(found)} rounds")
            for key in found[0]:
                values = [figures[key] for figures in found]
                row = (statistics.median(values), min(values), max(values))
                table.add_row(key, *(f"{value:,.1f}" for value in row))
            out.print(table)
            goals_of(name, found, goals)
    out.print(goals.table)


if __name__ == "__main__":
    main()
