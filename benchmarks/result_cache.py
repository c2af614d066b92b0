"""What equal requests save, and what a cache of answers saves and costs.

(b) is a pipeline over distinct prompts without a cache; (m) the same with an empty cache, which
misses each; (h) the same again, which finds each. (e) has as many prompts, 40 % of which are equal
to an earlier one. The cost of a miss is measured by itself too: looking for an answer, and handing
over one to keep.
"""

from __future__ import annotations

import hashlib
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from goals import Goals
from rich.console import Console
from rounds import Way, main
from workload import MODEL_ID, NEW_TOKENS, SAMPLING

from sage.common.components.sage_vllm import VLLMService
from sage.common.components.sage_vllm.cache.cache_settings import CacheSettings
from sage.common.components.sage_vllm.cache.result_cache import ResultCache
from sage.kernel.api import LocalEnvironment
from sage.libs.operators import VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service

EQUAL = 0.4
LOOKUPS = 2000


def without(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """Run distinct prompts without a cache."""
    with _service(model) as service:
        return _pipeline(service, prompts)


def misses(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """Run distinct prompts with an empty cache."""
    with tempfile.TemporaryDirectory(prefix="sage-bench-") as folder, _service(model) as service:
        return {**_pipeline(service, prompts, cache=folder), **_cost_of_a_miss()}


def hits(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """Run distinct prompts with a cache that has all their answers."""
    with tempfile.TemporaryDirectory(prefix="sage-bench-") as folder:
        with _service(model) as service:
            _pipeline(service, prompts, cache=folder)
        with _service(model) as service:
            figures = _pipeline(service, prompts, cache=folder)
    return figures


def equal(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """Run prompts many of which are equal, without a cache."""
    distinct = prompts[1 : 1 + round((1 - EQUAL) * (len(prompts) - 1))]
    rest = len(prompts) - 1 - len(distinct)
    mixed = distinct + random.Random(2).choices(distinct, k=rest)
    random.Random(3).shuffle(mixed)
    with _service(model) as service:
        return _pipeline(service, [prompts[0], *mixed])


def _service(model: Path) -> VLLMService:
    return VLLMService({"model_id": MODEL_ID, "model_root": model.parent / "registry"})


def _pipeline(service: VLLMService, prompts: list[str], **options: Any) -> dict[str, float]:
    service.generate(prompts[0], **SAMPLING)
    before = service.stats()
    with LocalEnvironment("cache") as env:
        register_vllm_service(env, service=service)
        stream = env.from_collection(prompts[1:])
        began = time.perf_counter()
        stream.map(VLLMServiceGenerator, **SAMPLING, **options).sink(lambda _: None)
        env.submit()
        seconds = time.perf_counter() - began
    after, count = service.stats(), len(prompts) - 1
    return {
        "tokens_per_second": count * NEW_TOKENS / seconds,
        "requests": (after["requests_done"] - before["requests_done"]) / count,
        "steps": after["steps"] - before["steps"],
    }


def _cost_of_a_miss() -> dict[str, float]:
    keys = [hashlib.sha256(b"%d" % number).digest() for number in range(LOOKUPS)]
    answer = b"x" * 500
    with tempfile.TemporaryDirectory(prefix="sage-bench-") as folder:
        cache = ResultCache(CacheSettings.of(folder))
        cache.find(keys[0])
        seconds = []
        for key in keys:
            began = time.perf_counter()
            cache.find(key)
            cache.keep(key, MODEL_ID, lambda: answer)
            seconds.append(time.perf_counter() - began)
        cache.close()
    return {"miss_us": statistics.median(seconds) * 1e6}


WAYS = {
    "b": Way(title="no cache", run=without),
    "m": Way(title="an empty cache", run=misses),
    "h": Way(title="a cache that has all", run=hits),
    "e": Way(title=f"{EQUAL:.0%} equal prompts, no cache", run=equal),
}


def print_goals() -> None:
    """Measure and print the figures beside their goals."""
    results = main(__doc__, WAYS, rounds=3)
    if results is None:
        return
    goals = Goals()
    goals.at_least("(m) / (b): all misses", results.ratio("m", "b"), 0.98)
    goals.at_most("a miss", results.median("m", "miss_us"), 30, "{:.1f} µs")
    goals.at_least("(h) / (b): all hits", results.ratio("h", "b"), 20)
    goals.at_most("(h): steps of the engine", results.median("h", "steps"), 0, "{:.0f}")
    goals.at_most("(e): requests of the engine", results.median("e", "requests"), 0.61)
    Console(width=120).print(goals.table)


if __name__ == "__main__":
    print_goals()
