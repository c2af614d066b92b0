"""How soon a stream's first token comes, and how long a switch of models keeps a caller waiting.

(h) is vLLM's LLMEngine driven by hand, on the thread that built it; (s) is VLLMService.stream. (w)
switches a service to and fro between two models while a caller generates one token at a time.
"""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path
from typing import Any

from engine_options import engine_options
from goals import Goals
from rich.console import Console
from rounds import Way, main
from workload import MODEL_ID, NEW_TOKENS, SAMPLING

from sage.common.components.sage_vllm import VLLMService
from sage.common.components.sage_vllm.testing import write_tiny_model
from sage.common.model_registry import import_model

OTHER_ID = "bench/other-28m"
SWITCHES = 6
STREAMS = 64  # one at a time, so that few take as long as a whole batch


def by_hand(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """LLMEngine, one request at a time, with an output for each token."""
    from vllm import EngineArgs, LLMEngine, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    arguments: dict[str, Any] = {"model": str(model), "disable_log_stats": True}
    engine = LLMEngine.from_engine_args(EngineArgs(**arguments, **engine_options(model)))
    params = SamplingParams(**SAMPLING, output_kind=RequestOutputKind.CUMULATIVE)
    firsts, seconds = [], 0.0
    for number, prompt in enumerate(prompts):
        start = time.perf_counter()
        engine.add_request(str(number), prompt, params)
        while not engine.step():
            pass
        firsts.append(time.perf_counter() - start)
        while engine.has_unfinished_requests():
            engine.step()
        seconds += time.perf_counter() - start
    return _figures(firsts, seconds)


def streamed(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """VLLMService.stream, one stream at a time."""
    firsts, seconds = [], 0.0
    config = {"model_id": MODEL_ID, "model_root": model.parent / "registry"}
    with VLLMService(config) as service:
        for prompt in prompts:
            start = time.perf_counter()
            stream = service.stream(prompt, **SAMPLING)
            next(stream)
            firsts.append(time.perf_counter() - start)
            list(stream)
            seconds += time.perf_counter() - start
    return _figures(firsts, seconds)


def switching(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """switch_model to and fro under a caller in a loop."""
    root = model.parent / "registry"
    other = write_tiny_model(
        model.parent / "other", hidden_size=512, layers=8, heads=8, vocab_size=8192, seed=2
    )
    import_model(OTHER_ID, other, root=root)
    done = threading.Event()
    calls: list[tuple[float, float]] = []  # when each began and ended
    switches: list[tuple[float, float]] = []

    def call() -> None:
        while not done.is_set():
            start = time.perf_counter()
            service.generate(prompts[0], max_tokens=1)
            calls.append((start, time.perf_counter()))

    with VLLMService({"model_id": MODEL_ID, "model_root": root}) as service:
        service.switch_model(OTHER_ID)  # what the first one imports is no part of the others
        caller = threading.Thread(target=call)
        caller.start()
        for number in range(SWITCHES):
            start = time.perf_counter()
            service.switch_model(OTHER_ID if number % 2 else MODEL_ID)
            switches.append((start, time.perf_counter()))
        done.set()
        caller.join()
    gaps = [
        max(end - start for start, end in calls if start < switched and end > began)
        for began, switched in switches
    ]
    return {
        "tokens_per_second": len(calls) / (calls[-1][1] - calls[0][0]),
        "longest_gap": max(gaps),
        "median_gap": statistics.median(gaps),
        "switch": statistics.median(switched - began for began, switched in switches),
    }


WAYS = {
    "h": Way(
        title="LLMEngine by hand",
        run=by_hand,
        variables={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
    ),
    "s": Way(title="VLLMService.stream", run=streamed),
    "w": Way(title="switch_model", run=switching),
}


def _figures(firsts: list[float], seconds: float) -> dict[str, float]:
    rate = len(firsts) * NEW_TOKENS / seconds
    return {"first_token": statistics.median(firsts[1:]), "tokens_per_second": rate}


if __name__ == "__main__":
    results = main(__doc__, WAYS, rounds=3, prompts=STREAMS)
    if results is not None:
        goals = Goals()
        ratio = results.ratio("s", "h", "first_token")
        goals.at_most("(s) / (h) time to the first token of a stream", ratio, 1.1)
        gap = 1000 * max(run["longest_gap"] for run in results.figures["w"])
        goals.at_most("longest gap that a switch makes", gap, 250, "{:.0f} ms")
        console = Console(width=120)
        console.print(goals.table)
        median = 1000 * results.median("w", "median_gap")
        switch = results.median("w", "switch")
        console.print(f"median gap {median:.0f} ms; a switch takes {switch:.2f} s")
