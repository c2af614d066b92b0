r"""Generates a text for each line of a JSON Lines file; a job that was stopped goes on.

    python examples/service/vllm/batch_job.py in.jsonl out.jsonl --model <hub id> \
        --prompt "Summarise in a sentence: {text}"

Run it again after a crash, a kill or a Ctrl-C: it continues where it was, and in the end each line
is answered once. The lines that failed are in <out>.failed.jsonl, each with its error.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawTextHelpFormatter
from functools import partial
from pathlib import Path

from sage.kernel.api import LocalEnvironment
from sage.libs.io import JSONLSink, JSONLSource
from sage.libs.operators import VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service


def main() -> int:
    """Parse the arguments and run; returns the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", required=True, help="a chat model of the registry or the hub")
    parser.add_argument("--prompt", default="{prompt}", help="made of a line's fields")
    parser.add_argument("--system", default="Do as you are told, briefly.", help="system prompt")
    parser.add_argument("--max-tokens", type=int, default=256)
    arguments = parser.parse_args()
    output: Path = arguments.output
    env = LocalEnvironment("batch_job")
    register_vllm_service(env, "vllm_service", {"model_id": arguments.model, "auto_download": True})
    env.from_source(JSONLSource, arguments.input).map(
        VLLMServiceGenerator,
        prompt_template=arguments.prompt,
        system_prompt=arguments.system,
        max_tokens=arguments.max_tokens,
        retries=2,
        on_error=partial(JSONLSink, output.with_suffix(".failed.jsonl")),
    ).sink(JSONLSink, output)
    try:
        env.submit(checkpoint=output.with_suffix(".checkpoint"))
    except KeyboardInterrupt:
        print("interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
