"""A pipeline that answers some hundreds of questions with a vLLM engine in its own process.

    python examples/service/vllm/vllm_service_demo.py [--model <hub id>] [--prompts 400]

Without ``--model`` it uses a tiny chat model, trained on this machine the first time. With it, the
model is taken from the registry, and downloaded first if it is not there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sage.common.core.functions import SinkFunction
from sage.kernel.api import LocalEnvironment
from sage.libs.operators import VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service
from sage.tools.demo_model import demo_prompts, ensure_demo_model

SHOWN_ANSWERS = 6
SECONDS_BETWEEN_LINES = 2.0


class ProgressSink(SinkFunction):
    """Collects the answers and shows how far the pipeline is."""

    def __init__(self, answers: list[dict[str, Any]], total: int, console: Console) -> None:
        self.answers = answers
        self.total = total
        self.console = console
        self.tokens = 0
        self.started = self.last_line = time.monotonic()
        self.progress = Progress(
            TextColumn("answering"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:,.0f} tokens/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("answering", total=total, rate=0.0)

    def setup(self) -> None:
        """Start the clock with the first record, not with the loading of the model."""
        self.started = self.last_line = time.monotonic()
        self.progress.start()

    def execute(self, record: dict[str, Any]) -> None:
        """Take one answer."""
        self.answers.append(record)
        self.tokens += record["generation"]["tokens_used"]["completion"]
        now = time.monotonic()
        rate = self.tokens / max(now - self.started, 1e-9)
        self.progress.update(self.task, advance=1, rate=rate)
        if not self.console.is_terminal and now - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = now
            done = len(self.answers)
            self.console.print(f"{done} of {self.total} answered, {rate:,.0f} tokens/s")

    def cleanup(self) -> None:
        """Leave the terminal as it was."""
        self.progress.stop()


def as_conversation(question: str) -> dict[str, Any]:
    """Make a record of a question; the model's chat template does the rest."""
    return {"question": question, "prompt": [{"role": "user", "content": question}]}


def run(model_id: str, questions: list[str], console: Console) -> None:
    """Run the pipeline and print what came of it."""
    answers: list[dict[str, Any]] = []
    config = {
        "model_id": model_id,
        "auto_download": True,
        "sampling": {"temperature": 0, "max_tokens": 64},
    }
    with LocalEnvironment("vllm_service_demo") as env:
        register_vllm_service(env, "vllm_service", config)
        (
            env.from_collection(questions)
            .map(as_conversation)
            .map(VLLMServiceGenerator, "vllm_service")
            .sink(ProgressSink, answers, len(questions), console)
        )
        console.print(f"loading {model_id} into this process ...")
        env.submit(autostop=False)
        began = time.monotonic()
        env.wait()
        seconds = time.monotonic() - began
        stats = env.call_service("vllm_service", method="stats")
    print_summary(answers, seconds, stats)


def print_summary(answers: list[dict[str, Any]], seconds: float, stats: Mapping[str, Any]) -> None:
    """Print a few answers and the figures of the run, on standard output."""
    out = Console()
    table = Table("Question", "Answer", title=f"Some of {len(answers)} answers")
    for record in answers[:: max(1, len(answers) // SHOWN_ANSWERS)][:SHOWN_ANSWERS]:
        table.add_row(record["question"], record["generated"].strip())
    out.print(table)
    tokens = sum(record["generation"]["tokens_used"]["completion"] for record in answers)
    figures = Table("Figure", "Value", title="The run")
    figures.add_row("records/s", f"{len(answers) / seconds:,.1f}")
    figures.add_row("tokens/s", f"{tokens / seconds:,.0f}")
    figures.add_row(
        "batch occupancy",
        f"{stats['batch_occupancy']:.0%} (on average {stats['mean_batch_size']:.0f} of "
        f"{stats['max_batch_size']} prompts in each engine step)",
    )
    figures.add_row("engine start", f"{stats['engine']['start_seconds']:.1f} s")
    out.print(figures)


def main() -> int:
    """Parse the arguments and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", help="a model of the registry or the hub")
    parser.add_argument("--prompts", type=int, default=400, help="how many questions to answer")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    try:
        run(arguments.model or ensure_demo_model(), demo_prompts(arguments.prompts), console)
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
