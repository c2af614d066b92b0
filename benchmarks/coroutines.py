"""What coroutines of a pipeline cost, and what dependent generations per record lose to them.

(n) runs coroutines that do nothing; (c) has three generators in a chain, each of which answers the
answer of the one before; (a) does the same in one coroutine per record, by three calls.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from goals import Goals
from rich.console import Console
from rounds import Way, main
from workload import MODEL_ID

from sage.common.core.functions import MapFunction
from sage.kernel.api import LocalEnvironment
from sage.libs.operators import VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service

RECORDS = 200_000
STEPS = 3
OPTIONS = {"temperature": 0, "max_tokens": 32, "ignore_eos": True}


async def nothing(record: Any) -> Any:
    """Return the record."""
    return record


def no_ops(_model: Path, _prompts: list[str], _began: float) -> dict[str, float]:
    """Run coroutines that do nothing, and count the threads that it takes."""
    threads = 0

    def sink(record: int) -> None:
        nonlocal threads
        if record % 10_000 == 0:
            threads = max(threads, threading.active_count() - 1)

    began = time.perf_counter()
    with LocalEnvironment("no-ops") as env:
        env.from_collection(range(RECORDS)).map(nothing).sink(sink)
        env.submit()
    rate = RECORDS / (time.perf_counter() - began)
    return {"tokens_per_second": rate, "records_per_second": rate, "threads": threads}


def chained(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """Answer each prompt three times over with generators in a chain."""

    def add_operators(stream: Any) -> Any:
        for step in range(STEPS):
            stream = stream.map(
                VLLMServiceGenerator,
                prompt_key=f"text{step}",
                output_key=f"text{step + 1}",
                **OPTIONS,
            )
        return stream

    return _pipeline(model, [{"text0": prompt} for prompt in prompts], add_operators)


class Steps(MapFunction):
    """Answers a prompt, and each answer."""

    async def execute(self, record: dict[str, str]) -> dict[str, str]:
        """Add the three answers."""
        texts = dict(record)
        for step in range(STEPS):
            (answer,) = await self.call(
                "vllm_service", texts[f"text{step}"], method="generate", **OPTIONS
            )
            texts[f"text{step + 1}"] = answer["text"]
        return texts


def in_a_coroutine(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """Answer each prompt three times over in one coroutine."""
    return _pipeline(
        model, [{"text0": prompt} for prompt in prompts], lambda stream: stream.map(Steps)
    )


def _pipeline(model: Path, records: list[dict[str, str]], add_operators: Any) -> dict[str, float]:
    with LocalEnvironment("steps") as env:
        config = {"model_id": MODEL_ID, "model_root": model.parent / "registry"}
        register_vllm_service(env, config=config)
        env.call_service("vllm_service", records[0]["text0"], method="generate", **OPTIONS)
        began = time.perf_counter()
        add_operators(env.from_collection(records[1:])).sink(lambda _: None)
        env.submit()
        seconds = time.perf_counter() - began
    tokens = len(records[1:]) * STEPS * OPTIONS["max_tokens"]
    return {"tokens_per_second": tokens / seconds, "records_per_second": len(records) / seconds}


WAYS = {
    "n": Way(title="coroutines that do nothing (records, not tokens)", run=no_ops),
    "c": Way(title=f"{STEPS} chained generators", run=chained),
    "a": Way(title=f"{STEPS} calls in one coroutine", run=in_a_coroutine),
}


def print_goals() -> None:
    """Measure and print the figures beside their goals."""
    results = main(__doc__, WAYS, rounds=3, prompts=256)
    if results is None:
        return
    goals = Goals()
    goals.at_least(
        "coroutines that do nothing, per second",
        results.median("n", "records_per_second"),
        50_000,
        "{:,.0f}",
    )
    goals.at_most("threads of that run", results.median("n", "threads"), 3, "{:.0f}")
    goals.at_least("(a) / (c)", results.ratio("a", "c"), 0.95)
    Console(width=120).print(goals.table)


if __name__ == "__main__":
    print_goals()
