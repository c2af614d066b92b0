"""How fast a model is on this machine: requests through the service, so many at a time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from sage.common.components.sage_vllm.requests.result_types import GenerateResult
from sage.common.components.sage_vllm.service import VLLMService

_WORDS = "time year people way day man thing woman life child world school state family".split()
_STREAMED = 16
"""About so many requests of a level are streamed, to see their first token come."""
_LOOK_EVERY = 0.2
"""Seconds: a Ctrl-C that the system hands to another thread must not find this one asleep."""


@dataclass(frozen=True, kw_only=True)
class LevelResult:
    """What so many requests in flight gave; times in seconds, tokens summed over all requests."""

    in_flight: int
    seconds: float
    prompt_tokens: int
    output_tokens: int
    latencies: Sequence[float]
    first_tokens: Sequence[float]
    mean_batch_size: float
    batch_occupancy: float

    def to_json(self) -> dict[str, Any]:
        """Return the rates and percentiles as plain data."""
        total = self.prompt_tokens + self.output_tokens
        return {
            "in_flight": self.in_flight,
            "requests": len(self.latencies),
            "seconds": self.seconds,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "requests_per_second": len(self.latencies) / self.seconds,
            "output_tokens_per_second": self.output_tokens / self.seconds,
            "total_tokens_per_second": total / self.seconds,
            "latency_seconds": {
                f"p{share}": percentile(self.latencies, share) for share in (50, 95, 99)
            },
            "first_token_seconds": {
                f"p{share}": percentile(self.first_tokens, share) for share in (50, 95)
            },
            "mean_batch_size": self.mean_batch_size,
            "batch_occupancy": self.batch_occupancy,
        }


def make_prompts(service: VLLMService, count: int, tokens: int) -> list[str]:
    """Prompts that differ, each as near to so many tokens as whole words come."""
    rng = random.Random(1)
    first, *_ = _WORDS
    least = service.count_tokens(first)[0]
    longer = service.count_tokens([f"{first} {word}" for word in _WORDS])
    cost = {word: max(1, each - least) for word, each in zip(_WORDS, longer, strict=True)}

    def prompt() -> str:
        words, left = [first], tokens - least
        while cost[word := rng.choice(_WORDS)] <= left:
            words.append(word)
            left -= cost[word]
        return " ".join(words)

    return [prompt() for _ in range(count)]


def measure_level(
    service: VLLMService,
    prompts: Sequence[str],
    *,
    in_flight: int,
    max_tokens: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> LevelResult:
    """Send all prompts, so many at a time, and generate exactly `max_tokens` for each.

    `on_progress` is told now and then how many are done.
    """
    options = {"temperature": 0, "max_tokens": max_tokens, "ignore_eos": True}
    every = max(1, len(prompts) // _STREAMED)
    first_tokens: list[float] = []

    def send(index: int) -> GenerateResult:
        prompt = {"prompt": prompts[index]}  # it is meant to be continued, not answered
        if index % every:
            return service.generate(prompt, **options)[0]
        start = time.perf_counter()
        with service.stream(prompt, **options) as stream:
            next(stream, "")
            first_tokens.append(time.perf_counter() - start)
            for _ in stream:
                pass
        return stream.result

    before = service.stats()
    start = time.perf_counter()
    results = _run_all(send, len(prompts), in_flight, on_progress)
    seconds = time.perf_counter() - start
    after = service.stats()
    steps = after["steps"] - before["steps"]
    batch = (after["sequence_steps"] - before["sequence_steps"]) / max(1, steps)
    return LevelResult(
        in_flight=in_flight,
        seconds=seconds,
        prompt_tokens=sum(result["tokens_used"]["prompt"] for result in results),
        output_tokens=sum(result["tokens_used"]["completion"] for result in results),
        latencies=[result["latency"] for result in results],
        first_tokens=first_tokens,
        mean_batch_size=batch,
        batch_occupancy=batch / after["max_batch_size"],
    )


def percentile(values: Sequence[float], share: int) -> float:
    """Return the smallest of the values that so many in a hundred do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


def _run_all(
    send: Callable[[int], GenerateResult],
    count: int,
    in_flight: int,
    on_progress: Callable[[int], None],
) -> list[GenerateResult]:
    callers = ThreadPoolExecutor(in_flight)
    futures = [callers.submit(send, index) for index in range(count)]
    try:
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=_LOOK_EVERY)
            for future in done:
                future.result()
            on_progress(count - len(pending))
    finally:  # closing the service ends what may still be under way
        callers.shutdown(wait=False, cancel_futures=True)
    return [future.result() for future in futures]
