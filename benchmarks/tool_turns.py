"""What tools cost that run between the turns of a conversation.

256 records take three turns each: two calls of a tool that lasts 50 ms, and an answer. It is
compared with the same generations without tools, as three generators one after the other, whose
prompts are there from the beginning.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from goals import Goals
from rich.console import Console

from sage.common.components.sage_vllm import VLLMService
from sage.common.components.sage_vllm.requests.chat.tools import tool_schemas
from sage.common.components.sage_vllm.testing import write_tiny_model
from sage.common.components.sage_vllm.testing.chat_templates import (
    CHAT_TEMPLATES,
    QWEN3_TOKENS,
)
from sage.common.model_registry import import_model
from sage.kernel.api import LocalEnvironment
from sage.libs.operators import VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service

MODEL_ID = "bench/llama-28m-tools"
RECORDS, CALLS, TOOL_SECONDS, MOST_TOKENS, ROUNDS = 256, 2, 0.05, 96, 3


def rain(city: Literal["Oslo", "Rome"]) -> str:
    """Say whether it rains in a city."""
    time.sleep(TOOL_SECONDS)
    return f"{city}: no"


class AsksTwice(VLLMService):
    """Has a random model ask for the tool twice, and then answer."""

    def generate_async(self, prompts: Any, **options: Any) -> Any:
        """Generate, with the choice of tools that is this turn's."""
        told = sum(message["role"] == "tool" for message in prompts["messages"])
        turn: dict[str, Any] = {"tool_choice": "rain"}
        if told == CALLS:
            turn = {"tool_choice": "none", "max_tokens": 32}
        return super().generate_async(prompts, **{**options, **turn})


def with_tools(service: VLLMService, records: list[Any]) -> tuple[float, list[Any]]:
    """Return how long a pipeline takes whose operator runs the tool, and what comes out of it."""
    with LocalEnvironment("tools") as env:
        register_vllm_service(env, service=service)
        stream = env.from_collection(records)
        began = time.perf_counter()
        answered = stream.map(VLLMServiceGenerator, tools=[rain], run_tools=True).collect()
        return time.perf_counter() - began, answered


def without_tools(service: VLLMService, answered: list[Any]) -> float:
    """Return how long the same generations take where each turn is an operator of its own."""
    records = [dict(zip("abc", _prompts(each["messages"]), strict=True)) for each in answered]
    with LocalEnvironment("chain") as env:
        register_vllm_service(env, service=service)
        stream = env.from_collection(records)
        for turn in "abc":
            stream = stream.map(
                VLLMServiceGenerator,
                prompt_key=turn,
                tools=tool_schemas([rain]),
                output_key=f"answer_{turn}",
                details_key=None,
            )
        began = time.perf_counter()
        stream.collect()
        return time.perf_counter() - began


def main() -> None:
    """Print a table of both."""
    asks = [{"prompt": f"Does it rain in Oslo, for the {n}. time?"} for n in range(RECORDS)]
    with tempfile.TemporaryDirectory(prefix="sage-bench-") as scratch:
        folder = Path(scratch)
        model = write_tiny_model(
            folder / "model", hidden_size=512, layers=8, heads=8, vocab_size=8192,
            context=2048, chat_template=CHAT_TEMPLATES["tools"], extra_tokens=QWEN3_TOKENS,
        )  # fmt: skip
        import_model(MODEL_ID, model, root=folder / "registry")
        config = {
            "model_id": MODEL_ID,
            "model_root": folder / "registry",
            "sampling": {"temperature": 0, "max_tokens": MOST_TOKENS, "ignore_eos": False},
        }
        with AsksTwice(config) as service:
            without_tools(service, with_tools(service, asks)[1])  # both find their prompts cached
            tools, chained = [], []
            for _ in range(ROUNDS):
                seconds, answered = with_tools(service, asks)
                tools.append(seconds)
                chained.append(without_tools(service, answered))
    goals = Goals()
    title = f"{RECORDS} records of {CALLS + 1} turns with a tool of {TOOL_SECONDS * 1e3:.0f} ms, "
    title += "time beside that of the same generations"
    goals.at_most(title, statistics.median(tools) / statistics.median(chained), 1.25)
    console = Console(width=140)
    console.print(goals.table)
    for name, figures in (("with tools", tools), ("generations alone", chained)):
        console.print(f"{name}: {', '.join(f'{each:.2f} s' for each in figures)}")


def _prompts(messages: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return what each turn of a conversation was asked."""
    ends = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    return [messages[:end] for end in ends]


if __name__ == "__main__":
    main()
