r"""Writes a text for each line of a JSON Lines file, and has another model judge it.

    python examples/service/vllm/judge_pipeline.py topics.jsonl out.jsonl \
        --writer <hub id> --judge <hub id>

Both models are in one service and share its memory: where it does not hold both, they take turns.
A line of the input is {"topic": "..."}; in the output it also has "text" and "verdict". Run it
again after a crash, a kill or a Ctrl-C: it continues where it was.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawTextHelpFormatter
from pathlib import Path
from typing import Any

from sage.kernel.api import DataStream, LocalEnvironment
from sage.libs.io import JSONLSink, JSONLSource
from sage.libs.operators import VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service

WRITE = "Write a short paragraph on {topic}."
JUDGE = "Is this a clear paragraph on {topic}? Answer yes or no.\n\n{text}"


def judged(stream: DataStream) -> DataStream:
    """Have the writer write, and the judge say yes or no."""
    return stream.map(
        VLLMServiceGenerator,
        model="writer",
        prompt_template=WRITE,
        system_prompt="You write clearly.",
        output_key="text",
        details_key=None,
        retries=2,
    ).map(
        VLLMServiceGenerator,
        model="judge",
        prompt_template=JUDGE,
        system_prompt="You judge what others write.",
        choice=["yes", "no"],
        output_key="verdict",
        details_key=None,
        retries=2,
    )


def main() -> int:
    """Parse the arguments and run; returns the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--writer", required=True, help="a chat model of the registry or the hub")
    parser.add_argument("--judge", required=True, help="another one; the same id loads it twice")
    parser.add_argument("--memory", help="what both may hold together, such as 16GB")
    parser.add_argument("--max-tokens", type=int, default=256)
    arguments = parser.parse_args()
    output: Path = arguments.output
    config: dict[str, Any] = {
        "models": {
            "writer": {
                "model_id": arguments.writer,
                "sampling": {"temperature": 0.8, "seed": 1, "max_tokens": arguments.max_tokens},
            },
            "judge": {"model_id": arguments.judge, "sampling": {"temperature": 0}},
        },
        "memory_budget": arguments.memory,
        "auto_download": True,
    }
    env = LocalEnvironment("judge_pipeline")
    register_vllm_service(env, "vllm_service", config)
    lines = env.from_source(JSONLSource, arguments.input)
    judged(lines).sink(JSONLSink, output)
    try:
        env.submit(checkpoint=output.with_suffix(".checkpoint"))
    except KeyboardInterrupt:
        print("interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
