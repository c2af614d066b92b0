"""Measures several ways of doing the same in turn, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine_options import engine_options
from figures import write_figures
from workload import make_prompts, write_model


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way: a function of the model's folder, the prompts and the time when its process began.

    It returns its figures by name. The first prompt is there to warm up.
    """

    title: str
    run: Callable[[Path, list[str], float], dict[str, float]]
    variables: Mapping[str, str] = field(default_factory=dict)  # of its process's environment


@dataclass(frozen=True, kw_only=True)
class Results:
    """The figures of all ways, round by round, and the engine options that they had."""

    ways: Mapping[str, Way]
    figures: Mapping[str, list[dict[str, float]]]
    options: Mapping[str, Any]

    def median(self, way: str, figure: str) -> float:
        """Return the median of a way's figure over the rounds."""
        return statistics.median(run[figure] for run in self.figures[way])

    def ratio(self, way: str, other: str, figure: str = "tokens_per_second") -> float:
        """Return the median over the rounds of a way's figure by another's in the same round."""
        pairs = zip(self.figures[way], self.figures[other], strict=True)
        return statistics.median(one[figure] / two[figure] for one, two in pairs)

    def write(self, name: str, title: str, *, ours: Sequence[str]) -> None:
        """Write the rates of all ways for a chart; ``ours`` names the ways that are SAGE's."""
        rates = {
            way.title: [run["tokens_per_second"] for run in self.figures[key]]
            for key, way in self.ways.items()
        }
        titles = [self.ways[key].title for key in ours]
        write_figures(name, rates, title=title, unit="tokens/s", ours=titles)


def main(
    doc: str | None, ways: Mapping[str, Way], *, rounds: int, prompts: int = 512
) -> Results | None:
    """Run all ways in turn and return their figures; or, as a child, one way, and return None."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--prompts", type=int, default=prompts)
    parser.add_argument("--way", choices=sorted(ways), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        texts = make_prompts(arguments.prompts + 1)
        run = ways[arguments.way].run
        print(json.dumps(run(arguments.folder / "model", texts, float(os.environ["BEGAN"]))))
        return None
    return _run_all(ways, arguments.rounds, arguments.prompts)


def _run_all(ways: Mapping[str, Way], rounds: int, count: int) -> Results:
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="sage-bench-") as scratch:
        model = write_model(Path(scratch))
        for number in range(rounds):
            for name, way in ways.items():
                figures[name].append(_run_child(name, way, model.parent, count))
                rate = figures[name][-1]["tokens_per_second"]
                said = f"round {number + 1}: ({name}) {way.title}: {rate:,.0f} tokens/s"
                print(said, file=sys.stderr)
        options = engine_options(model)
    return Results(ways=ways, figures=figures, options=options)


def _run_child(name: str, way: Way, folder: Path, count: int) -> dict[str, float]:
    command = [sys.executable, sys.argv[0], "--way", name]
    child = subprocess.run(
        [*command, "--folder", str(folder), "--prompts", str(count)],
        env={
            **os.environ,
            "VLLM_LOGGING_LEVEL": "ERROR",
            **way.variables,
            "BEGAN": str(time.time()),
        },
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    figures: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return figures
