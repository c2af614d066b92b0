"""Real models on a cluster and beside it, each way in a process of its own; for ``cluster.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from against_others import ALL_CORES, RAY_VARIABLES, ray_data
from workload import MODEL_ID, SAMPLING, make_prompts

from sage.kernel.api import LocalEnvironment, RayEnvironment
from sage.libs.operators import VLLMEmbeddingOperator, VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service

PROMPTS = 512
TEXTS_PER_PROMPT = 8  # an embedding needs a fraction of a generation

Figures = dict[str, float]


def model_environment(model: Path, kind: str) -> Any:
    """Return an environment with the 28 M model; RAY_ADDRESS says on which cluster, if on any."""
    if kind == "local":
        env: Any = LocalEnvironment("bench")
    else:
        cores = len(os.sched_getaffinity(0))
        services = {"vllm_service": {"replicas": 1, "gpus": 0, "cpus": cores}}
        own = {"address": "local", "ray_init": {"num_cpus": cores}}
        where = {} if "RAY_ADDRESS" in os.environ else own
        env = RayEnvironment("bench", {"services": services, **where})
    root = model.parent / "registry"
    register_vllm_service(env, config={"model_id": MODEL_ID, "model_root": root})
    return env


def generations(kind: str, model: Path, prompts: list[str], began: float) -> Figures:
    """Return tokens per second, and the seconds from the program's start to its end."""
    tokens, ended = 0, 0.0

    def count(record: dict[str, Any]) -> None:
        nonlocal tokens, ended
        tokens += record["generation"]["tokens_used"]["completion"]
        ended = time.perf_counter()

    with model_environment(model, kind) as env:
        env.call_service("vllm_service", prompts[0], method="generate", max_tokens=1)
        env.from_collection(prompts[1:]).map(VLLMServiceGenerator, **SAMPLING).sink(count)
        start = time.perf_counter()
        env.submit(autostop=False)
        env.wait()
    return {"steady": tokens / (ended - start), "in all": time.time() - began}


def embeddings(kind: str, model: Path, prompts: list[str], _began: float) -> Figures:
    """Return texts per second."""
    texts = [f"{number} {prompt}" for number in range(TEXTS_PER_PROMPT) for prompt in prompts[1:]]
    ended = 0.0

    def note(_record: dict[str, Any]) -> None:
        nonlocal ended
        ended = time.perf_counter()

    with model_environment(model, kind) as env:
        env.call_service("vllm_service", prompts, method="embed")
        env.from_collection(texts).map(VLLMEmbeddingOperator).sink(note)
        start = time.perf_counter()
        env.submit(autostop=False)
        env.wait()
    return {"steady": len(texts) / (ended - start)}


def first_answer(kind: str, model: Path, prompts: list[str], _began: float) -> Figures:
    """Return the seconds from an environment's beginning to its first answer."""
    start = time.perf_counter()
    with model_environment(model, kind) as env:
        env.call_service("vllm_service", prompts[0], method="generate", max_tokens=1)
        return {"seconds": time.perf_counter() - start}


def by_ray_data(model: Path, prompts: list[str], began: float) -> Figures:
    """Ray Data LLM."""
    found = ray_data(model, prompts, began)
    return {"steady": found["tokens_per_second"], "in all": found["in_all"]}


WAYS: Mapping[str, Callable[[Path, list[str], float], Figures]] = {
    "on Ray": partial(generations, "ray"),
    "local": partial(generations, "local"),
    "Ray Data LLM": by_ray_data,
    "embed on Ray": partial(embeddings, "ray"),
    "embed local": partial(embeddings, "local"),
    "start on Ray": partial(first_answer, "ray"),
    "start local": partial(first_answer, "local"),
}


def in_children(
    names: tuple[str, ...], folder: Path, variables: Mapping[str, str] | None = None
) -> Figures:
    """Run ways each in a process of its own; return their figures by way and name."""
    found: Figures = {}
    for name in names:
        environment = {
            **os.environ,
            "VLLM_LOGGING_LEVEL": "ERROR",
            **RAY_VARIABLES,
            **(ALL_CORES if name == "Ray Data LLM" else {}),
            **(variables or {}),
            "BEGAN": str(time.time()),
        }
        child = subprocess.run(
            [sys.executable, __file__, name, str(folder / "model")],
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        figures = json.loads(child.stdout.splitlines()[-1])
        found |= {f"{name}, {key}": value for key, value in figures.items()}
    return found


if __name__ == "__main__":
    way, its_model = sys.argv[1:]
    figures_of = WAYS[way](Path(its_model), make_prompts(PROMPTS + 1), float(os.environ["BEGAN"]))
    print(json.dumps(figures_of))
