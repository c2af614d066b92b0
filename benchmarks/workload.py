"""What the throughput benchmarks have in common: prompts, a model, and the ways to compare with."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from engine_options import engine_options

from sage.common.components.sage_vllm.testing import write_tiny_model
from sage.common.model_registry import import_model
from sage.kernel.api import LocalEnvironment

MODEL_ID = "bench/llama-28m"
NEW_TOKENS = 32
SAMPLING = {"temperature": 0, "max_tokens": NEW_TOKENS, "ignore_eos": True}
WORDS = "time year people way day man thing woman life child world school state family".split()


def make_prompts(count: int) -> list[str]:
    """Return prompts of 8 to 48 words, the same at each call."""
    rng = random.Random(1)
    return [" ".join(rng.choices(WORDS, k=rng.randint(8, 48))) for _ in range(count)]


def write_model(folder: Path) -> Path:
    """Write a random Llama of 28 M parameters, put it on a registry beside it, and return it."""
    model = write_tiny_model(folder / "model", hidden_size=512, layers=8, heads=8, vocab_size=8192)
    import_model(MODEL_ID, model, root=folder / "registry")
    return model


def environment(model: Path, engine: Mapping[str, Any] | None = None) -> LocalEnvironment:
    """Return an environment with the service on the registry beside the model."""
    from sage.middleware.services.vllm import register_vllm_service

    root = model.parent / "registry"
    env = LocalEnvironment("bench")
    config = {"model_id": MODEL_ID, "model_root": root, "engine": engine or {}}
    register_vllm_service(env, config=config)
    return env


# -- ways that more than one benchmark measures; the first prompt warms up -------------------------


def offline_batch(model: Path, prompts: list[str], began: float) -> dict[str, float]:
    """LLM.generate with all prompts."""
    from vllm import LLM, SamplingParams

    llm = LLM(str(model), **engine_options(model))
    llm.generate(prompts[0], SamplingParams(max_tokens=1), use_tqdm=False)
    first_token = time.time() - began
    params = SamplingParams(**SAMPLING)
    start = time.perf_counter()
    outputs = llm.generate(prompts[1:], params, use_tqdm=False)
    seconds = time.perf_counter() - start
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {
        "tokens_per_second": tokens / seconds,
        "first_token": first_token,
        "in_all": time.time() - began,
    }


def pipeline(
    model: Path,
    prompts: list[str],
    began: float,
    beside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> dict[str, float]:
    """Return a stream of records, handed over one at a time, through VLLMServiceGenerator."""
    from sage.libs.operators import VLLMServiceGenerator

    tokens, finished = 0, 0.0

    def count(record: dict[str, Any]) -> None:
        nonlocal tokens, finished
        tokens += record["generation"]["tokens_used"]["completion"]
        finished = time.perf_counter()

    started: list[float] = []

    def one_at_a_time() -> Any:
        started.append(time.perf_counter())
        yield from prompts[1:]

    with environment(model) as env:
        env.call_service("vllm_service", prompts[0], method="generate", max_tokens=1)
        first_token = time.time() - began
        env.from_source(one_at_a_time).map(VLLMServiceGenerator, **SAMPLING).sink(count)
        with beside():
            env.submit(autostop=False)
            env.wait()
        in_all = time.time() - began
        occupancy = env.call_service("vllm_service", method="stats")["batch_occupancy"]
    return {
        "tokens_per_second": tokens / (finished - started[0]),
        "first_token": first_token,
        "in_all": in_all,
        "batch_occupancy": occupancy,
    }
