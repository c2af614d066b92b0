"""How soon the command line answers, from the start of its process.

    python benchmarks/start_to_answer.py [--rounds 3]

In turn, ``--rounds`` times, with the demo model, the same prompt and the same engine options:

    (r) `sage llm run --prompt`, from the start of its process to its end
    (s) vLLM's OpenAI server, from the start of its process to its first answer

Both must give the same answer. Then, in turn too, the commands that load no model, beside a Python
that does nothing.
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
import urllib.request
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from against_others import running_server
from figures import write_figures
from goals import Goals
from rich.console import Console

from sage.common.model_registry import get_model_path, list_models, registry_root
from sage.tools.demo_model import MODEL_ID, ensure_demo_model

PROMPT = "What is the capital of France?"
MAX_TOKENS = 32
SAGE = str(Path(sys.executable).with_name("sage"))
RUN_TARGET = 0.5  # of the server's time
COMMAND_TARGET = 200  # milliseconds
COMMAND_ROUNDS = 11
WAYS = {"r": "sage llm run --prompt", "s": "vLLM's OpenAI server, first answer"}


def run_command(environment: Mapping[str, str]) -> tuple[str, float]:
    """(r): the whole command; returns its answer and its seconds."""
    options = ["--model", MODEL_ID, "--prompt", PROMPT, "--max-tokens", str(MAX_TOKENS)]
    start = time.perf_counter()
    done = subprocess.run(
        [SAGE, "llm", "run", *options, "--temperature", "0", "--quiet"],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return done.stdout.strip(), time.perf_counter() - start


def ask_server(model: Path) -> tuple[str, float]:
    """(s): the server, and one request as soon as it is healthy; its own end does not count."""
    body = {
        "model": "bench",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
    start = time.perf_counter()
    with running_server(model) as address:
        request = urllib.request.Request(
            f"{address}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text: str = json.load(answer)["choices"][0]["message"]["content"]
        seconds = time.perf_counter() - start
    return text.strip(), seconds


def time_answers(
    model: Path, environment: Mapping[str, str], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each way, round by round."""
    ways = {"r": partial(run_command, environment), "s": partial(ask_server, model)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    answers = set()
    for number in range(rounds):
        for name, way in ways.items():
            text, seconds = way()
            answers.add(text)
            times[name].append(seconds)
            print(f"round {number + 1}: ({name}) {seconds:.1f} s", file=sys.stderr)
    if len(answers) > 1:
        raise RuntimeError(f"the answers differ: {answers}")
    return times


def time_commands(environment: Mapping[str, str]) -> dict[str, float]:
    """Median milliseconds of each short command, after a first one that writes its byte code."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "sage --help": [SAGE, "--help"],
        "sage llm model show": [SAGE, "llm", "model", "show"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(1 + COMMAND_ROUNDS):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
            if number:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    """Measure, and print what was found beside its goals."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="sage-bench-") as scratch:
        own = registry_root()
        has_model = any(model.model_id == MODEL_ID for model in list_models(root=own))
        root = own if has_model else Path(scratch)
        ensure_demo_model(root)
        environment = {**os.environ, "SAGE_VLLM_MODEL_ROOT": str(root)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        commands = time_commands(environment)
        answers = time_answers(get_model_path(MODEL_ID, root=root), environment, rounds)
    write_figures(
        "start_to_answer",
        {title: answers[name] for name, title in WAYS.items()},
        title="From the start of the process to the answer",
        unit="seconds",
        ours=[WAYS["r"]],
        less_is_better=True,
    )
    goals = Goals()
    ratio = statistics.median(
        run / server for run, server in zip(answers["r"], answers["s"], strict=True)
    )
    goals.at_most("(r) / (s) seconds from start to answer", ratio, RUN_TARGET)
    for name in ("sage --help", "sage llm model show"):
        goals.at_most(name, commands[name], COMMAND_TARGET, "{:.0f} ms")
    console = Console(width=100)
    console.print(goals.table)
    for name, title in WAYS.items():
        console.print(f"({name}) {title}: {statistics.median(answers[name]):.1f} s")
    console.print(f"python -c pass: {commands['python -c pass']:.0f} ms")


if __name__ == "__main__":
    main()
