"""How fast a pipeline is against the same pipeline at an earlier commit, on one machine.

    python benchmarks/against_before.py COMMIT [--rounds 5] [--prompts 512]

What a pipeline does not use must cost it nothing: thinking, tools, caches and classes are off here.
Both commits run their own ``pipeline_throughput.py``, way (c), with the same prompts, no two of
which are equal, in turn and every other round the other way around. What counts is the median of
the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from goals import Goals
from rich.console import Console

HERE = Path(__file__).parents[1]
TARGET = 0.98


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Yield a folder with the files of a commit, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sage-before-") as scratch:
        folder = Path(scratch) / "before"
        git = ["git", "-C", str(HERE), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


class Tree:
    """The files of one commit, with a model and a registry that it has written itself."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._benchmarks = folder / "benchmarks"
        self._scratch = scratch
        sources = [str(path) for path in sorted(folder.glob("packages/*/src"))]
        self._variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*sources, str(self._benchmarks)]),
            "VLLM_LOGGING_LEVEL": "ERROR",
        }
        scratch.mkdir()
        program = "import sys, pathlib, workload; workload.write_model(pathlib.Path(sys.argv[1]))"
        self._run("-c", program, str(scratch))

    def tokens_per_second(self, prompts: int) -> float:
        """Run the pipeline in a process of its own."""
        program = str(self._benchmarks / "pipeline_throughput.py")
        arguments = ["--way", "c", "--folder", str(self._scratch), "--prompts", str(prompts)]
        figures = json.loads(self._run(program, *arguments).splitlines()[-1])
        return float(figures["tokens_per_second"])

    def _run(self, *arguments: str) -> str:
        variables = {**self._variables, "BEGAN": str(time.time())}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, check=True, text=True)
        return done.stdout


def main() -> None:
    """Measure both in turn and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=512)
    arguments = parser.parse_args()
    ratios = []
    with (
        tempfile.TemporaryDirectory(prefix="sage-bench-") as scratch,
        checked_out(arguments.commit) as before,
    ):
        trees = {
            "now": Tree(HERE, Path(scratch) / "now"),
            "before": Tree(before, Path(scratch) / "before"),
        }
        for number in range(arguments.rounds):
            rates = {
                name: trees[name].tokens_per_second(arguments.prompts)
                for name in sorted(trees, reverse=bool(number % 2))
            }
            ratios.append(rates["now"] / rates["before"])
            said = ", ".join(f"{name} {rate:,.0f} tokens/s" for name, rate in rates.items())
            print(f"round {number + 1}: {said}, {ratios[-1]:.3f} x", file=sys.stderr)
    goals = Goals()
    title = f"pipeline, now / at {arguments.commit}"
    goals.at_least(title, statistics.median(ratios), TARGET, "{:.3f} x")
    Console(width=100).print(goals.table)


if __name__ == "__main__":
    main()
