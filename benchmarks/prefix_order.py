"""What it is worth that a pipeline starts prompts with a common stem one after the other.

    python benchmarks/prefix_order.py [--rounds 3] [--prompts 2048]

The prompts have 64 stems of 256 tokens and come shuffled; each goes on with some 24 tokens of its
own, and is answered with 32. The engine's KV cache has room for 8 stems beside a batch of 64. That
is measured with (a) LLM.generate, inline, with all prompts at once, (b) a pipeline with
``prefix_order="off"`` and (c) one with the default. (d) and (e) are (b) and (c) with prompts of the
same length that have nothing in common, where the default must cost nothing.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

from engine_options import engine_options
from goals import Goals
from rich.console import Console
from rich.table import Table
from rounds import Results, Way, main
from workload import SAMPLING, WORDS, environment

STEMS, STEM_TOKENS, OWN_WORDS = 64, 256, 8
BATCH, BLOCK = 64, 128  # 128 tokens are a block of vLLM's on a CPU
ENGINE = {
    "max_num_seqs": BATCH,
    "max_model_len": 512,
    "block_size": BLOCK,
    "num_gpu_blocks_override": 8 * STEM_TOKENS // BLOCK + BATCH,
}


def stem_prompts(model: Path, count: int, *, common: bool) -> list[str]:
    """Return shuffled prompts with common stems, or with a stem each of its own."""
    from transformers import AutoTokenizer

    tokenizer, rng = AutoTokenizer.from_pretrained(str(model)), random.Random(1)
    length = {word: len(tokenizer(f" {word}")["input_ids"]) for word in WORDS}
    one_token = next(word for word in WORDS if length[word] == 1)

    def stem() -> str:
        words, tokens = [f"{one_token}"], len(tokenizer(one_token)["input_ids"])
        while tokens < STEM_TOKENS:
            fitting = [word for word in WORDS if length[word] <= STEM_TOKENS - tokens]
            words.append(rng.choice(fitting))
            tokens += length[words[-1]]
        return " ".join(words)

    stems = [stem() for _ in range(STEMS if common else count)]
    prompts = [
        f"{stems[number % len(stems)]} {' '.join(rng.choices(WORDS, k=OWN_WORDS))}"
        for number in range(count)
    ]
    rng.shuffle(prompts)
    return prompts


def offline(model: Path, prompts: list[str], _began: float) -> dict[str, float]:
    """Measure (a)."""
    from vllm import LLM, SamplingParams

    llm = LLM(str(model), **{**engine_options(model), **ENGINE})
    texts = stem_prompts(model, len(prompts) - 1, common=True)
    llm.generate(prompts[0], SamplingParams(max_tokens=1), use_tqdm=False)
    start = time.perf_counter()
    outputs = llm.generate(texts, SamplingParams(**SAMPLING), use_tqdm=False)
    seconds = time.perf_counter() - start
    cached = sum(output.num_cached_tokens for output in outputs)
    return {
        "tokens_per_second": sum(len(o.outputs[0].token_ids) for o in outputs) / seconds,
        "hit_rate": cached / sum(len(output.prompt_token_ids) for output in outputs),
    }


def pipeline(
    model: Path, prompts: list[str], _began: float, *, common: bool, prefix_order: str
) -> dict[str, float]:
    """Measure (b) to (e): one record at a time."""
    from sage.libs.operators import VLLMServiceGenerator

    texts = stem_prompts(model, len(prompts) - 1, common=common)
    answers: list[dict[str, Any]] = []
    with environment(model, ENGINE) as env:
        env.call_service("vllm_service", prompts[0], method="generate", max_tokens=1)
        stream = env.from_collection(texts).map(
            VLLMServiceGenerator, name="answer", prefix_order=prefix_order, **SAMPLING
        )
        stream.sink(answers.append)
        start = time.perf_counter()
        env.submit(autostop=False)
        env.wait()
        seconds = time.perf_counter() - start
        hit_rate = env.call_service("vllm_service", method="stats")["prefix_cache_hit_rate"]
        overtaken = env.metrics().operator("answer").overtaken
    if [answer["prompt"] for answer in answers] != texts:
        raise RuntimeError("the answers are not in input order")
    return {
        "tokens_per_second": sum(map(_tokens, answers)) / seconds,
        "hit_rate": hit_rate,
        "overtaken": overtaken,
        "same_answers": _same_answers(model.parent / f"answers-{common}.json", answers),
    }


def _tokens(answer: dict[str, Any]) -> int:
    tokens: int = answer["generation"]["tokens_used"]["completion"]
    return tokens


def _same_answers(first: Path, answers: list[dict[str, Any]]) -> float:
    """Return what share of the answers is that of the first run with these prompts."""
    digests = [hashlib.sha256(answer["generated"].encode()).hexdigest() for answer in answers]
    if not first.exists():
        first.write_text(json.dumps(digests))
    found: list[str] = json.loads(first.read_text())
    same = sum(one == other for one, other in zip(digests, found, strict=True))
    return same / len(digests)


def _way(title: str, *, common: bool, prefix_order: str) -> Way:
    return Way(title=title, run=partial(pipeline, common=common, prefix_order=prefix_order))


WAYS = {
    "a": Way(
        title="LLM.generate, inline, the same prompts",
        run=offline,
        variables={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
    ),
    "b": _way("pipeline, order off", common=True, prefix_order="off"),
    "c": _way("pipeline, default", common=True, prefix_order="auto"),
    "d": _way("no common stems, order off", common=False, prefix_order="off"),
    "e": _way("no common stems, default", common=False, prefix_order="auto"),
}


def report(results: Results) -> None:
    """Print medians, ratios and what the ratios should at least be."""
    results.write("prefix_order", "Shuffled prompts with common stems", ours="bc")
    out = Console(width=100)
    table = Table(
        "", "Way", "tokens/s", "prefix cache hits", "overtaken", title="Common stems (medians)"
    )
    for name, way in WAYS.items():
        rate, hits = (results.median(name, key) for key in ("tokens_per_second", "hit_rate"))
        overtaken = "" if name == "a" else f"{results.median(name, 'overtaken'):,.0f}"
        table.add_row(f"({name})", way.title, f"{rate:,.0f}", f"{hits:.1%}", overtaken)
    out.print(table)
    goals = Goals()
    goals.at_least("(c) prefix cache hits", results.median("c", "hit_rate"), 0.85, "{:.3f}")
    goals.at_least("(c) / (a) tokens/s", results.ratio("c", "a"), 1.5)
    goals.at_least("(c) / (b) tokens/s", results.ratio("c", "b"), 1.5)
    goals.at_least("(e) / (d) tokens/s", results.ratio("e", "d"), 0.98)
    out.print(goals.table)
    same = results.median("c", "same_answers"), results.median("b", "same_answers")
    out.print(f"answers as in the first run of (b): (c) {same[0]:.1%}, (b) again {same[1]:.1%}")


if __name__ == "__main__" and (results := main(__doc__, WAYS, rounds=3, prompts=2048)):
    report(results)
