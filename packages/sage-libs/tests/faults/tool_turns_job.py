"""A batch job whose records take turns with a tool, for a test to kill in the middle of them.

``tool_turns_job.py FOLDER [CALLS]`` has each record answered after two calls of a tool, each of
which is noted in a file. From the last one of so many calls on none returns: it can only be killed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm import VLLMService
from sage.common.components.sage_vllm.testing import CannedAnswer, EchoEngine
from sage.kernel.api import LocalEnvironment
from sage.libs.io import JSONLSink, JSONLSource
from sage.libs.operators import VLLMServiceGenerator

FOLDER = Path(sys.argv[1])
MOST = int(sys.argv[2]) if len(sys.argv) > 2 else None
NUMBERS = count(1)
CALLS = os.open(FOLDER / "calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def rain(city: str) -> str:
    """Say whether it rains in a city."""
    number = next(NUMBERS)
    os.write(CALLS, f"{city}\n".encode())
    if MOST is not None and number >= MOST:
        threading.Event().wait()
    time.sleep(0.01)
    return f"{city}: dry"


def answer(prompt: Any) -> Any:
    told = [message["content"] for message in prompt if message["role"] == "tool"]
    if len(told) == 2:
        return " and ".join(told)
    return CannedAnswer(tool_calls=[("rain", {"city": prompt[0]["content"]})])


env = LocalEnvironment("turns")
config = {"model_id": "test/echo", "model_root": FOLDER / "models"}
engine = partial(EchoEngine, answers=answer, latency=0.01)
env.register_service("vllm_service", VLLMService, config, engine_factory=engine)
stream = env.from_source(JSONLSource, FOLDER / "in.jsonl").map(
    VLLMServiceGenerator, tools=[rain], run_tools=True, max_in_flight=8, prefix_order="off"
)
stream.sink(JSONLSink, FOLDER / "out.jsonl")
print("ready", flush=True)
env.submit(checkpoint=FOLDER / "checkpoint")
