r"""Generates a text for each line of a JSON Lines file, on all machines of a Ray cluster.

    python examples/service/vllm/cluster_job.py in.jsonl out.jsonl --model <hub id> \
        --prompt "Summarise in a sentence: {text}" [--address auto] [--replicas 2 8]

Without --address it uses this machine, with a replica of the model on each GPU. Run it again after
a crash, a kill or a Ctrl-C: it continues where it was, on the cluster or, with batch_job.py's
environment, on one machine. The lines that failed are in <out>.failed.jsonl, each with its error.

--demo needs no model: it starts two machines' worth of Ray here, answers with an engine without
weights, and kills one of the two in the middle.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser, Namespace, RawTextHelpFormatter
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.testing import SleepingEngine, write_echo_model
from sage.common.model_registry import import_model
from sage.kernel.api import RayEnvironment
from sage.libs.io import JSONLSink, JSONLSource
from sage.libs.operators import VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service

DEMO_LINES = 3000


def parse() -> Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("input", type=Path, nargs="?")
    parser.add_argument("output", type=Path, nargs="?")
    parser.add_argument("--model", help="a chat model of the registry or the hub")
    parser.add_argument("--prompt", default="{prompt}", help="made of a line's fields")
    parser.add_argument("--system", default="Do as you are told, briefly.", help="system prompt")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--address", help="'auto' on a machine of a cluster, or host:port")
    parser.add_argument("--replicas", type=int, nargs=2, metavar=("LEAST", "MOST"))
    parser.add_argument("--grows", action="store_true", help="the cluster adds machines on demand")
    parser.add_argument("--demo", action="store_true", help="show what a dying machine costs")
    arguments = parser.parse_args()
    if not arguments.demo and not (arguments.input and arguments.output and arguments.model):
        parser.error("the input, the output and --model are needed, or --demo")
    return arguments


def describe(env: RayEnvironment, arguments: Namespace) -> None:
    """Describe the pipeline: it is the one of batch_job.py."""
    output: Path = arguments.output
    env.from_source(JSONLSource, arguments.input).map(
        VLLMServiceGenerator,
        prompt_template=arguments.prompt,
        system_prompt=arguments.system,
        max_tokens=arguments.max_tokens,
        retries=2,
        on_error=partial(JSONLSink, output.with_suffix(".failed.jsonl")),
    ).sink(JSONLSink, output)


def main() -> int:
    """Run; returns the exit code."""
    arguments = parse()
    try:
        return demo(arguments) if arguments.demo else run(arguments)
    except KeyboardInterrupt:
        way_on = "" if arguments.demo else "; run it again to go on"
        print(f"interrupted{way_on}", file=sys.stderr)
        return 130


def run(arguments: Namespace) -> int:
    """Answer a file on a cluster."""
    settings = {"replicas": tuple(arguments.replicas)} if arguments.replicas else {}
    services = {"vllm_service": settings}
    cluster = {"address": arguments.address, "grows": arguments.grows}
    env = RayEnvironment("cluster_job", {**cluster, "services": services})
    register_vllm_service(env, config={"model_id": arguments.model, "auto_download": True})
    describe(env, arguments)
    env.submit(checkpoint=arguments.output.with_suffix(".checkpoint"), progress=True)
    return 0


# -- the demonstration ----------------------------------------------------------------------------


def demo(arguments: Namespace) -> int:
    """Run the same pipeline on two nodes of Ray on this machine, and kill one of them."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    second = cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        with tempfile.TemporaryDirectory(prefix="sage-cluster-") as scratch:
            folder = Path(scratch)
            arguments.input, arguments.output = folder / "in.jsonl", folder / "out.jsonl"
            arguments.prompt, arguments.max_tokens = "{prompt}", 16
            lines = [json.dumps({"prompt": f"question {n} of many"}) for n in range(DEMO_LINES)]
            arguments.input.write_text("\n".join(lines), encoding="utf-8")
            return show(arguments, folder, partial(cluster.remove_node, second, False))
    finally:
        ray.shutdown()
        cluster.shutdown()


def show(arguments: Namespace, folder: Path, kill: Any) -> int:
    """Run, kill a machine in the middle, and count what came out."""
    model = write_echo_model(folder / "echo")
    import_model("demo/echo", model, root=folder / "models")
    services = {"vllm_service": {"replicas": 2, "gpus": 0, "cpus": 2}}
    with RayEnvironment("cluster_job", {"services": services}) as env:
        register_vllm_service(
            env,
            config={"model_id": "demo/echo", "model_root": folder / "models"},
            engine_factory=partial(SleepingEngine, step_seconds=0.02, max_batch_size=32),
        )
        describe(env, arguments)
        env.submit(autostop=False, checkpoint=folder / "checkpoint", progress=True)
        while env.metrics().done < DEMO_LINES // 3:
            time.sleep(0.05)
        where = Counter(replica.node for replica in env.metrics().services["vllm_service"])
        print(f"replicas are on {', '.join(map(str, where))}; one of the two machines dies now")
        print("Ray notices it after some seconds; until then the calls of that machine wait")
        threading.Thread(target=kill, daemon=True).start()
        env.wait()
        replicas = env.metrics().services["vllm_service"]
    written = [json.loads(line) for line in arguments.output.read_text().splitlines()]
    prompts = [record["prompt"] for record in written]
    expected = [f"question {n} of many" for n in range(DEMO_LINES)]
    deaths = sum(replica.deaths for replica in replicas)
    again = sum(replica.replayed for replica in replicas)
    print(f"{len(written):,} of {DEMO_LINES:,} lines written, {len(set(prompts)):,} different ones")
    print(f"deaths of replicas: {deaths}; calls made again on the other machine: {again}")
    print("in order, none lost, none doubled" if prompts == expected else "WRONG OUTPUT")
    return 0 if prompts == expected and deaths else 1


if __name__ == "__main__":
    sys.exit(main())
