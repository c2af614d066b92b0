"""How fast a pipeline asks about pictures, against vLLM itself, on one machine.

    python benchmarks/pictures.py [--rounds 2] [--pictures 256]

A tiny model that sees, of random weights, describes JPEG files of 640 x 480 pixels, 16 tokens each,
in two ways, each in a process of its own, in turn, ``--rounds`` times:

    (a) a pipeline of VLLMServiceGenerator, one record with a path at a time, default settings
    (b) LLM.chat with all conversations, the files opened by Pillow, engine inline

(b) gets the engine options that the service chooses for a CPU. Each process warms up with 16
pictures of their own; then all are done once, since vLLM keeps what it has made of a picture. The
texts of (a) are compared with those of (b).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from engine_options import engine_options
from rich.console import Console
from rich.table import Table

from sage.common.components.sage_vllm.engine_contract import Role
from sage.common.components.sage_vllm.testing import write_tiny_vision_model
from sage.common.model_registry import import_model

MODEL = "bench/vision"
SAMPLING = {"temperature": 0, "max_tokens": 16, "ignore_eos": True}
WARM_UP = 16


def write_inputs(folder: Path, count: int) -> None:
    """Write the model into a registry, and the pictures beside it."""
    from PIL import Image

    import_model(MODEL, write_tiny_vision_model(folder / "model"), root=folder / "registry")
    chance = np.random.default_rng(1)
    for number in range(count + WARM_UP):
        coarse = chance.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480)).save(folder / f"{number}.jpg", quality=90)


def pictures(folder: Path) -> list[Path]:
    """Return the pictures in the order of their numbers."""
    return sorted(folder.glob("*.jpg"), key=lambda path: int(path.stem))


def pipeline(folder: Path) -> tuple[list[str], float]:
    """Measure (a): a stream of records through VLLMServiceGenerator."""
    from sage.common.components.sage_vllm import VLLMService
    from sage.kernel.api import LocalEnvironment
    from sage.libs.operators import VLLMServiceGenerator
    from sage.middleware.services.vllm import register_vllm_service

    def question(path: Path) -> dict[str, Any]:
        parts = [{"type": "image", "image": str(path)}, {"type": "text", "text": "What is it?"}]
        return {"prompt": [{"role": "user", "content": parts}]}

    def run(paths: list[Path]) -> list[str]:
        out: list[dict[str, Any]] = []
        with LocalEnvironment("bench") as env:
            register_vllm_service(env, service=service)
            stream = env.from_collection(paths).map(question).map(VLLMServiceGenerator)
            stream.sink(out.append)
            env.submit()
        return [record["generated"] for record in out]

    config = {"model_id": MODEL, "model_root": folder / "registry", "sampling": SAMPLING}
    with VLLMService(config) as service:
        return timed(run, pictures(folder))


def offline(folder: Path) -> tuple[list[str], float]:
    """Measure (b): LLM.chat with all conversations."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from PIL import Image
    from vllm import LLM, SamplingParams

    llm = LLM(str(folder / "model"), **engine_options(folder / "model", Role.GENERATE))

    def run(paths: list[Path]) -> list[str]:
        asked: list[Any] = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_pil", "image_pil": Image.open(path)},
                        {"type": "text", "text": "What is it?"},
                    ],
                }
            ]
            for path in paths
        ]
        outputs = llm.chat(asked, SamplingParams(**SAMPLING), use_tqdm=False)
        return [output.outputs[0].text for output in outputs]

    return timed(run, pictures(folder))


def timed(run: Any, paths: list[Path]) -> tuple[list[str], float]:
    """Run the first ones to warm up, and return the texts of the others and their seconds."""
    run(paths[:WARM_UP])
    began = time.perf_counter()
    texts = run(paths[WARM_UP:])
    return texts, time.perf_counter() - began


WAYS = {"pipeline": pipeline, "LLM.chat": offline}


def main() -> None:
    """Run the ways in turn, and print a table of the best rounds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way is not None:
        texts, seconds = WAYS[given.way](given.folder)
        print(json.dumps({"texts": texts, "seconds": seconds}))
        return
    best = dict.fromkeys(WAYS, float("inf"))
    said: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        write_inputs(Path(name), given.pictures)
        for _ in range(given.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, "--way", way, "--folder", name]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                best[way] = min(best[way], found["seconds"])
                said[way] = found["texts"]
    equal = sum(a == b for a, b in zip(said["pipeline"], said["LLM.chat"], strict=True))
    table = Table("way", "pictures/s", title=f"{given.pictures} pictures, {equal} texts equal")
    for way, seconds in best.items():
        table.add_row(way, f"{given.pictures / seconds:.1f}")
    Console().print(table)
    ratio = best["LLM.chat"] / best["pipeline"]
    print(f"pipeline / LLM.chat: {ratio:.2f}, goal 0.95")


if __name__ == "__main__":
    main()
