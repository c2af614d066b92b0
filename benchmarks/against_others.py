"""How fast a pipeline is against the other ways of running vLLM, in one run on one machine.

    python benchmarks/against_others.py [--rounds 1] [--prompts 512]

The same prompts (8 to 48 words, 32 new tokens, greedy) go through a random Llama of 28 M
parameters in seven ways, each in a process of its own, in turn, ``--rounds`` times:

    (a) a pipeline that hands over one record at a time, default settings
    (b) the same with a checkpoint, progress shown, and a JSON Lines file for a sink
    (c) vLLM's OpenAI server, and a client with 256 requests in flight
    (d) Ray Data LLM, batches of 64, one engine
    (e) LLM.generate with all prompts at once, vLLM's defaults
    (f) as (c), the engine computing on all cores
    (g) as (d), the engine computing on all cores

All get the engine options that the service chooses for a CPU and the batch sizes that vLLM chooses
for LLM (a server's are half of them). An engine in a process of its own, which (c), (d) and (e)
have, leaves one core to the processes around it unless told otherwise; (a) and (b) compute on all.
With few cores that is much of the difference, so (f) and (g) are told otherwise. Steady is from
the first request to the last result; in all is from the start of the process to the last result.
Ray Data has no way to warm up, and its rate counts from the first request that reached its engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine_options import engine_options
from goals import Goals
from rich.console import Console
from rich.table import Table
from rounds import Results, Way, main
from workload import SAMPLING, environment, offline_batch, pipeline

IN_FLIGHT = 256
BATCH_SIZES = {"max_num_seqs": 256, "max_num_batched_tokens": 4096}  # vLLM's for LLM on a CPU
START_TIMEOUT = 180  # seconds until the server has to answer


def durable_pipeline(model: Path, prompts: list[str], began: float) -> dict[str, float]:
    """(b): as the plain pipeline, but it can be killed and continued, and is watched."""
    from sage.libs.io import JSONLSink
    from sage.libs.operators import VLLMServiceGenerator

    started: list[float] = []

    def one_at_a_time() -> Iterator[str]:
        started.append(time.perf_counter())
        yield from prompts[1:]

    with tempfile.TemporaryDirectory() as scratch, environment(model) as env:
        output = Path(scratch) / "out.jsonl"
        env.call_service("vllm_service", prompts[0], method="generate", max_tokens=1)
        stream = env.from_source(one_at_a_time).map(VLLMServiceGenerator, **SAMPLING)
        stream.sink(JSONLSink, output)
        env.submit(autostop=False, checkpoint=Path(scratch) / "checkpoint", progress=True)
        env.wait()
        seconds, in_all = time.perf_counter() - started[0], time.time() - began
        records = [json.loads(line) for line in output.read_text().splitlines()]
    tokens = sum(record["generation"]["tokens_used"]["completion"] for record in records)
    return {"tokens_per_second": tokens / seconds, "in_all": in_all}


# -- vLLM's server ---------------------------------------------------------------------------------


def openai_server(model: Path, prompts: list[str], began: float) -> dict[str, float]:
    """(c), (f): a server process and an asynchronous client."""
    with running_server(model) as address:
        tokens, seconds = asyncio.run(send_all(address, prompts))
        in_all = time.time() - began
    return {"tokens_per_second": tokens / seconds, "in_all": in_all}


@contextmanager
def running_server(model: Path) -> Iterator[str]:
    """Start a server, wait until it answers, give its address, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in {**engine_options(model), **BATCH_SIZES}.items()
    ]
    options += ["--host=127.0.0.1", f"--port={port}", "--uvicorn-log-level=error"]
    options += [f"--model={model}", "--served-model-name=bench"]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options],
        stdout=sys.stderr,  # our own standard output is for the figures
    )
    try:
        wait_until_healthy(address, server)
        yield address
    finally:
        server.terminate()  # it ends its engine process itself
        server.wait(60)


def wait_until_healthy(address: str, server: subprocess.Popen[bytes]) -> None:
    """Return when the server answers; raise when it has ended or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"vLLM's server ended with status {server.returncode} before it answered")


async def send_all(address: str, prompts: list[str]) -> tuple[int, float]:
    """Send one completion per prompt, warm-up apart; return their tokens and seconds."""
    from openai import AsyncOpenAI

    free = asyncio.Semaphore(IN_FLIGHT)
    options: dict[str, Any] = {
        "model": "bench",
        "max_tokens": SAMPLING["max_tokens"],
        "temperature": SAMPLING["temperature"],
        "extra_body": {"ignore_eos": SAMPLING["ignore_eos"]},
    }

    async def complete(prompt: str) -> int:
        async with free:
            answer = await client.completions.create(prompt=prompt, **options)
        return answer.usage.completion_tokens if answer.usage else 0

    async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        await complete(prompts[0])
        start = time.perf_counter()
        tokens = sum(await asyncio.gather(*map(complete, prompts[1:])))
        return tokens, time.perf_counter() - start


# -- Ray Data --------------------------------------------------------------------------------------


def ray_data(model: Path, prompts: list[str], began: float) -> dict[str, float]:
    """(d), (g): a data set through a processor."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))  # Ray's default is 1
    batch = 64
    # More processors than there are, for an actor that cannot have one to itself never starts.
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=str(model),
            batch_size=batch,
            concurrency=1,
            engine_kwargs={**engine_options(model), **BATCH_SIZES},
            placement_group_config={"bundle_per_worker": {"CPU": 1}},  # else it waits for a GPU
            log_engine_metrics=False,  # they need Ray Serve
            # The prompts are plain text, and two processes less start sooner.
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "VLLM_LOGGING_LEVEL": "ERROR"}},
        ),
        preprocess=lambda row: {"prompt": row["prompt"], "sampling_params": dict(SAMPLING)},
        postprocess=lambda row: {
            "tokens": row["num_generated_tokens"],
            "arrived": row["metrics"]["arrival_time"],
        },
    )
    rows = [{"prompt": prompt} for prompt in prompts[1:]]
    records = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // batch))
    results = list(processor(records).iter_rows())
    finished = time.time()
    ray.shutdown()
    if len(results) != len(rows):
        raise RuntimeError(f"{len(rows)} rows went in and {len(results)} came out")
    seconds = finished - min(row["arrived"] for row in results)
    tokens = sum(row["tokens"] for row in results)
    return {"tokens_per_second": tokens / seconds, "in_all": finished - began}


RAY_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # by default its workers give way to everything on the machine
}
ALL_CORES = {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
WAYS = {
    "a": Way(title="pipeline, record by record", run=pipeline),
    "b": Way(title="the same, checkpoint and progress", run=durable_pipeline),
    "c": Way(title=f"OpenAI server, {IN_FLIGHT} in flight", run=openai_server),
    "d": Way(title="Ray Data LLM", run=ray_data, variables=RAY_VARIABLES),
    "e": Way(title="LLM.generate, defaults", run=offline_batch),
    "f": Way(title="OpenAI server, all cores", run=openai_server, variables=ALL_CORES),
    "g": Way(title="Ray Data LLM, all cores", run=ray_data, variables=RAY_VARIABLES | ALL_CORES),
}


def report(results: Results) -> None:
    """Print medians, ratios and what the ratios should at least be."""
    results.write("against_others", "A pipeline and other ways of running vLLM", ours="ab")
    out = Console(width=100)
    table = Table("", "Way", "tokens/s, steady", "in all", title="Throughput (medians)")
    for name, way in WAYS.items():
        rate, in_all = results.median(name, "tokens_per_second"), results.median(name, "in_all")
        table.add_row(f"({name})", way.title, f"{rate:,.0f}", f"{in_all:.1f} s")
    out.print(table)
    goals = Goals()
    for server in "cf":
        goals.at_least(f"(a) / ({server}) tokens/s", results.ratio("a", server), 1.6)
    for ray in "dg":
        goals.at_least(f"(a) / ({ray}) tokens/s", results.ratio("a", ray), 2.0)
        goals.at_least(f"({ray}) / (a) seconds in all", results.ratio(ray, "a", "in_all"), 2.0)
    goals.at_least("(b) / (e) tokens/s", results.ratio("b", "e"), 1.6)
    out.print(goals.table)
    out.print(f"engine options of all: { ({**results.options, **BATCH_SIZES}) }")


if __name__ == "__main__" and (results := main(__doc__, WAYS, rounds=1)):
    report(results)
