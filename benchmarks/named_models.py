"""What a table of models costs, and how models take turns where memory does not hold all of them.

(b) is a service of one model, (n) the same model by a name in a table of two. (h) is (b) with half
the prompts, which is what each of two models has alone; (t) has two models loaded, and each answers
its half at the same time. (r) has three tiny models in room for two, and a
pipeline of 600 records that call them in turn; (s) does what a swap at every other model does: it
has room for one, and each call waits until its model is loaded.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from goals import Goals
from rich.console import Console
from rounds import Way, main
from workload import MODEL_ID, NEW_TOKENS, SAMPLING

from sage.common.components.sage_vllm import VLLMService
from sage.common.components.sage_vllm.driver.shared_engine import SharedEngine
from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.testing import write_tiny_model
from sage.common.model_registry import get_model_path, import_model
from sage.kernel.api import LocalEnvironment
from sage.libs.operators import VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service

RECORDS = 600
SWAPS = 12
TINY = {"engine": {"max_num_seqs": 64, "kv_cache_memory_bytes": 64 << 20}}
SHORT = {"temperature": 0, "max_tokens": 4, "ignore_eos": True}


def one_model(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """Run all prompts through the service's only model."""
    config = {"model_id": MODEL_ID, "model_root": model.parent / "registry"}
    return _pipeline(config, [(None, prompt) for prompt in prompts[1:]])


def half_the_prompts(model: Path, prompts: list[str], began: float) -> dict[str, float]:
    """Run half the prompts through the service's only model."""
    return one_model(model, prompts[: len(prompts) // 2 + 1], began)


def one_of_a_table(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """Run all prompts through one of two models that the service has names for."""
    models = {"used": MODEL_ID, "other": MODEL_ID}
    config = {"models": models, "model_root": model.parent / "registry"}
    return _pipeline(config, [("used", prompt) for prompt in prompts[1:]])


def two_models(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """Run half the prompts through each of two models that are both loaded."""
    models = {"one": MODEL_ID, "two": MODEL_ID}
    config = {"models": models, "model_root": model.parent / "registry"}
    return _pipeline(config, [(("one", "two")[n % 2], p) for n, p in enumerate(prompts[1:])])


def in_rotation(model: Path, _prompts: list[str], _began: float) -> dict[str, float]:
    """Run records that call three models in turn, in room for two."""
    config = _three(model.parent / "tiny", 2.5)
    began = time.perf_counter()
    with LocalEnvironment("rotation") as env, VLLMService(config) as service:
        register_vllm_service(env, service=service)
        records = [
            {"prompt": f"record {number}", "options": {"model": "abc"[number % 3]}}
            for number in range(RECORDS)
        ]
        stream = env.from_collection(records)
        out = stream.map(VLLMServiceGenerator, options_key="options", **SHORT).collect()
        loads = sum(facts["loads"] for facts in service.stats()["models"].values())
    rate = len(out) / (time.perf_counter() - began)
    return {"tokens_per_second": rate * 4, "records_per_second": rate, "loads": loads}


def swapping(model: Path, _prompts: list[str], _began: float) -> dict[str, float]:
    """Run fewer records that call three models in turn, in room for one, one at a time."""
    config = _three(model.parent / "tiny", 1.5)
    began = time.perf_counter()
    with VLLMService(config) as service:
        for number in range(SWAPS):
            service.generate(f"record {number}", model="abc"[number % 3], **SHORT)
    rate = SWAPS / (time.perf_counter() - began)
    return {"tokens_per_second": rate * 4, "records_per_second": rate, "loads": SWAPS}


WAYS = {
    "b": Way(title="one model", run=one_model),
    "n": Way(title="one model of a table", run=one_of_a_table),
    "h": Way(title="one model, half the prompts", run=half_the_prompts),
    "t": Way(title="two models, half the prompts each", run=two_models),
    "r": Way(title="three models in room for two", run=in_rotation),
    "s": Way(title="three models, a swap at each", run=swapping),
}


def _pipeline(config: dict[str, Any], prompts: list[tuple[str | None, str]]) -> dict[str, float]:
    used = sorted({name for name, _ in prompts if name is not None})
    records = [
        {"prompt": prompt, "options": {} if name is None else {"model": name}}
        for name, prompt in prompts
    ]
    with LocalEnvironment("bench") as env, VLLMService(config) as service:
        for options in [{"model": name} for name in used] or [{}]:
            service.generate("warm up", max_tokens=1, **options)
        register_vllm_service(env, service=service)
        began = time.perf_counter()
        stream = env.from_collection(records)
        out = stream.map(VLLMServiceGenerator, options_key="options", **SAMPLING).collect()
        seconds = time.perf_counter() - began
    return {"tokens_per_second": len(out) * NEW_TOKENS / seconds}


def _three(folder: Path, engines: float) -> dict[str, Any]:
    """Return a service's configuration with three tiny models, in room for so many engines."""
    root = folder / "registry"
    for seed, name in enumerate("abc"):
        if not (folder / name).exists():
            import_model(f"bench/{name}", write_tiny_model(folder / name, seed=seed), root=root)
    path = get_model_path("bench/a", root=root)
    _, held = SharedEngine.plan(EngineSpec(model_id="bench/a", path=path, arguments=TINY["engine"]))
    models = {name: {"model_id": f"bench/{name}", **TINY} for name in "abc"}
    return {"models": models, "memory_budget": int(engines * held), "model_root": root}


if __name__ == "__main__":
    results = main(__doc__, WAYS, rounds=3)
    if results is not None:
        goals = Goals()
        goals.at_least("(n) / (b) tokens/s: a table of models", results.ratio("n", "b"), 0.99)
        goals.at_least("(t) / (h) tokens/s: two models at once", results.ratio("t", "h"), 0.9)
        ratio = results.ratio("r", "s", "records_per_second")
        goals.at_least("(r) / (s) records/s: against a swap at each", ratio, 5.0)
        goals.at_most("loads of (r)", results.median("r", "loads"), 12, "{:.0f}")
        Console(width=120).print(goals.table)
