"""What an awaited call costs beside a blocking one, and how long an event loop stands still for it.

The calls are answered by an EchoEngine, so that all of their time is the service's own. The event
loop's pause is measured with a real engine: the start of a call turns its prompts into tokens.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from workload import MODEL_ID, make_prompts, write_model

from sage.common.components.sage_vllm import VLLMService
from sage.common.components.sage_vllm.testing import EchoEngine
from sage.common.core import awaiting

Call = Callable[[str], Coroutine[Any, Any, Any]]

CALLS = 2000
PROMPTS = 1000
ROUNDS = 5


async def one_by_one(call: Call) -> float:
    """Return the seconds of a call, each made when the one before has ended."""
    began = time.perf_counter()
    for _ in range(CALLS):
        await call("one two")
    return (time.perf_counter() - began) / CALLS


async def all_at_once(call: Call) -> float:
    """Return the seconds of a call, with all of them at once."""
    began = time.perf_counter()
    await asyncio.gather(*(call("one two") for _ in range(CALLS)))
    return (time.perf_counter() - began) / CALLS


async def pause(start: Callable[[], Coroutine[Any, Any, Any]]) -> float:
    """Return for how long the event loop did not come round while a call ran, at most."""
    longest, before = 0.0, time.perf_counter()
    task = asyncio.create_task(start())
    while not task.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, before = max(longest, now - before), now
    await task
    return longest


def main() -> None:
    """Print a table of both."""
    with tempfile.TemporaryDirectory(prefix="sage-bench-") as scratch:
        config = {
            "model_id": MODEL_ID,
            "model_root": write_model(Path(scratch)).parent / "registry",
        }
        table = Table("Figure", f"median of {ROUNDS}", "spread", title="Calls from coroutines")
        with VLLMService(config, engine_factory=EchoEngine) as service:
            add_calls(table, service)
        with VLLMService(config) as service:
            add_pauses(table, service)
    Console(width=120).print(table)


def add_calls(table: Table, service: VLLMService) -> None:
    """Add the rows of an engine that answers at once."""

    async def blocking(prompt: str) -> Any:
        return service.generate(prompt)

    async def future(prompt: str) -> Any:
        return await awaiting.result_of(service.generate_async(prompt))

    ways: dict[str, Call] = {
        "generate": blocking,
        "generate_async": future,
        "agenerate": service.agenerate,
    }
    for title, measure in (("one by one", one_by_one), ("all at once", all_at_once)):
        for name, call in ways.items():
            seconds = [asyncio.run(measure(call)) for _ in range(ROUNDS)]
            _add(table, f"a call of {name}, {CALLS} {title}", seconds, 1e6, "µs")


def add_pauses(table: Table, service: VLLMService) -> None:
    """Add the rows of an engine that has tokens."""
    prompts = make_prompts(PROMPTS)

    async def on_the_loop() -> None:
        service.generate_async(prompts, max_tokens=1).cancel()

    async def beside_it() -> None:
        call = asyncio.create_task(service.agenerate(prompts, max_tokens=1))
        while not service.stats()["in_flight"]:
            await asyncio.sleep(0)
        await asyncio.sleep(0.3)  # all have begun
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    for name, start in (("generate_async", on_the_loop), ("agenerate", beside_it)):
        seconds = [asyncio.run(pause(start)) for _ in range(ROUNDS + 1)][1:]
        title = f"longest pause of the event loop, {name} of {PROMPTS:,} prompts"
        _add(table, title, seconds, 1e3, "ms")


def _add(table: Table, title: str, seconds: list[float], factor: float, unit: str) -> None:
    low, middle, high = (factor * figure(seconds) for figure in (min, statistics.median, max))
    table.add_row(title, f"{middle:.1f} {unit}", f"{low:.1f} to {high:.1f}")


if __name__ == "__main__":
    main()
