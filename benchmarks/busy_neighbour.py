"""How fast a pipeline is beside a process that multiplies matrices on all cores.

    python benchmarks/busy_neighbour.py [--rounds 3] [--prompts 256]

The pipeline of ``pipeline_throughput.py`` runs in four ways, each in a process of its own, in turn:

    (a) alone, default settings
    (b) alone, with the spinning that libgomp has by default, milliseconds at each barrier
    (c) beside the neighbour, default settings
    (d) beside the neighbour, with libgomp's spinning

The neighbour runs while the prompts do, not while the engine starts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from goals import Goals
from rich.console import Console
from rich.table import Table
from rounds import Results, Way, main
from workload import pipeline

NEIGHBOUR = """
import numpy
one = numpy.random.rand(1500, 1500).astype(numpy.float32)
print("busy", flush=True)
while True:
    one @ one
"""
LIBGOMP = {"GOMP_SPINCOUNT": "300000"}  # as it is where neither this nor OMP_WAIT_POLICY is set


@contextmanager
def neighbour() -> Iterator[None]:
    """Keep all cores busy."""
    command = [sys.executable, "-c", NEIGHBOUR]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as busy:
        try:
            if busy.stdout is None or not busy.stdout.readline():
                raise RuntimeError("the neighbour did not start")
            yield
        finally:
            busy.kill()


def beside(model: Path, prompts: list[str], began: float) -> dict[str, float]:
    """(c) and (d)."""
    return pipeline(model, prompts, began, beside=neighbour)


WAYS = {
    "a": Way(title="alone", run=pipeline),
    "b": Way(title="alone, libgomp's spinning", run=pipeline, variables=LIBGOMP),
    "c": Way(title="beside a busy neighbour", run=beside),
    "d": Way(title="beside it, libgomp's spinning", run=beside, variables=LIBGOMP),
}


def report(results: Results) -> None:
    """Print medians and ratios."""
    results.write("busy_neighbour", "A pipeline beside a busy neighbour", ours="ac")
    out = Console(width=100)
    table = Table("", "Way", "tokens/s", title="A pipeline beside a busy neighbour (medians)")
    for name, way in WAYS.items():
        table.add_row(f"({name})", way.title, f"{results.median(name, 'tokens_per_second'):,.0f}")
    out.print(table)
    goals = Goals()
    goals.at_least("(a) / (b) tokens/s", results.ratio("a", "b"), 0.97)
    goals.at_least("(c) / (d) tokens/s", results.ratio("c", "d"), 1.7)
    out.print(goals.table)
    out.print(f"{len(os.sched_getaffinity(0))} cores")


if __name__ == "__main__" and (results := main(__doc__, WAYS, rounds=3, prompts=256)):
    report(results)
