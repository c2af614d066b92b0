"""How fast a pipeline answers about pictures, against vLLM itself, on one machine.

    python benchmarks/pictures.py [--rounds 2] [--texts 256, or fewer]

A random Idefics3 of 0.4 M parameters is asked about pictures of noise, PNG files of 80 to 320
pixels a side, in three ways, each in a process of its own, in turn, ``--rounds`` times:

    (a) a pipeline of VLLMServiceGenerator, one record with the path of a picture at a time
    (b) LLM.chat with all pictures, each opened by Pillow just before, engine inline
    (c) as (a), with the engine in a process of its own, where no picture is prepared beside it
    (d) as (a), and (e) as (b), with an Idefics3 of 71 M

The first model is as small as it is so that what is compared is the way of a picture to the engine,
not the engine; in the second one an engine has as much to do as in the smallest that people use.
(b) and (e) get the engine options that the service chooses for a CPU. No picture is seen twice by a
process, so that no cache answers for the work. Each process warms up and then asks about all
pictures three times, others each time; its best time counts.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from engine_options import engine_options
from figures import write_figures
from goals import Goals
from rich.console import Console
from rich.table import Table
from text_ways import PASSES, WARM_UP, Way, best_of_passes, best_of_pipeline, main

from sage.common.components.sage_vllm.testing import write_tiny_vision_model
from sage.common.model_registry import import_model
from sage.libs.operators import VLLMServiceGenerator

MODELS: dict[str, dict[str, int]] = {
    "tiny": {},
    "larger": {"hidden_size": 512, "layers": 12, "side": 224},
}
PICTURES = 256
ENGINE = {"dtype": "float32"}  # so that both ways say the same
SAMPLING: dict[str, Any] = {"temperature": 0, "max_tokens": 16, "ignore_eos": True}
QUESTION = "What is it?"


def write_models(folder: Path) -> None:
    """Write the models, and as many pictures as a process sees."""
    from PIL import Image

    for name, sizes in MODELS.items():
        written = write_tiny_vision_model(folder / name, **sizes)
        import_model(f"bench/{name}", written, root=folder / "registry")
    (folder / "pictures").mkdir()
    chance = np.random.default_rng(1)
    for path in pictures(folder):
        height, width = chance.integers(80, 320, 2)
        noise = Image.fromarray(chance.integers(0, 255, (height, width, 3), dtype=np.uint8))
        noise.save(path, compress_level=1)


def pictures(folder: Path) -> Iterator[Path]:
    """Yield the pictures, each once."""
    for number in range(WARM_UP + PASSES * PICTURES):
        yield folder / "pictures" / f"{number}.png"


def conversation(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a question about a picture."""
    return [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]


def number_of(text: str) -> int:
    """Return a number by which answers are compared."""
    return zlib.crc32(text.encode()) % 65_536


# -- the ways; each runs in a child process and returns its numbers and its best seconds -----------


def pipeline(model: str, mode: str, folder: Path, texts: list[str]) -> tuple[Any, float]:
    """Measure (a), (c) and (d), which differ in the model and in the engine's mode."""
    unseen = pictures(folder)

    def record_of(_text: str) -> dict[str, Any]:
        return {"prompt": conversation({"type": "image", "image": str(next(unseen))})}

    return best_of_pipeline(
        {
            "model_id": f"bench/{model}",
            "model_root": folder / "registry",
            "engine": ENGINE,
            "engine_mode": mode,
        },
        partial(VLLMServiceGenerator, **SAMPLING),
        lambda record: number_of(record["generated"]),
        texts,
        record_of,
    )


def offline(model: str, folder: Path, texts: list[str]) -> tuple[Any, float]:
    """Measure (b) and (e)."""
    from PIL import Image
    from vllm import LLM, SamplingParams

    llm = LLM(str(folder / model), **{**engine_options(folder / model), **ENGINE})
    params, unseen = SamplingParams(**SAMPLING), pictures(folder)

    def ask(some: list[str]) -> list[int]:
        chats: list[Any] = []
        for _ in some:
            with Image.open(next(unseen)) as image:
                part = {"type": "image_pil", "image_pil": image.convert("RGB")}
            chats.append(conversation(part))
        outputs = llm.chat(chats, params, use_tqdm=False)
        return [number_of(output.outputs[0].text) for output in outputs]

    return best_of_passes(ask, texts)


WAYS: dict[str, tuple[str, Way]] = {
    "a": ("pipeline, a path at a time", partial(pipeline, "tiny", "auto")),
    "b": ("LLM.chat, inline", partial(offline, "tiny")),
    "c": ("pipeline, engine in a process of its own", partial(pipeline, "tiny", "process")),
    "d": ("pipeline, 71 M", partial(pipeline, "larger", "auto")),
    "e": ("LLM.chat, 71 M", partial(offline, "larger")),
}


# -- the table ----------------------------------------------------------------------------------


def report(rates: dict[str, list[float]], folder: Path) -> None:
    """Print the best rates, and what their ratio should at least be."""
    write_figures(
        "pictures",
        {WAYS[way][0]: rates[way] for way in "abc"},
        title="Answers about pictures from an Idefics3 of 0.4 M parameters",
        unit="pictures/s",
        ours=[WAYS[way][0] for way in "ac"],
    )
    out = Console(width=100)
    table = Table("", "Way", "pictures/s", title="Pictures")
    for way, (title, _) in WAYS.items():
        table.add_row(f"({way})", title, f"{max(rates[way]):,.0f}")
    out.print(table)
    goals = Goals()
    for way, theirs in (("a", "b"), ("c", "b"), ("d", "e")):
        goals.at_least(f"({way}) / ({theirs})", max(rates[way]) / max(rates[theirs]), 0.95)
        equal = float((np.load(folder / f"{way}.npy") == np.load(folder / f"{theirs}.npy")).mean())
        goals.at_least(f"answers of ({way}) as of ({theirs})", equal, 0.99, "{:.0%}")
    out.print(goals.table)
    options = {**engine_options(folder / "tiny"), **ENGINE}
    out.print(f"engine options of both: {json.dumps(options)}")


if __name__ == "__main__":
    main(__doc__, WAYS, write_models, report, texts=PICTURES)
