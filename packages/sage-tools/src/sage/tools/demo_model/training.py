"""Training of the demo model. The one module that imports torch and transformers.

Import it only where a model is to be trained: the imports alone take seconds.
"""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from sage.common.core.errors import SageError
from sage.tools.demo_model.knowledge.corpus import build_corpus
from sage.tools.demo_model.muon import Muon
from sage.tools.demo_model.tokens import (
    CHAT_TEMPLATE,
    END,
    END_ID,
    IGNORED,
    PAD,
    PAD_ID,
    Row,
    casual,
    conversations,
    exchange_rows,
    train_tokenizer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sage.tools.demo_model.progress import TrainingProgress

CONTEXT = 512

_SEED = 1
_BATCH = 16  # conversations
_ROUNDS = (420, 100, 100, 100, 100)  # steps; as many rounds as the target takes
_LATER_RATE = 0.5  # later rounds start from weights that are good already: this keeps them
_REPEATS = 8  # of what is still answered wrongly, in each later round
# Shares of the held-out questions answered exactly: what ends training, and what it must reach.
_TARGET, _LEAST = 0.985, 0.97
_ADAM_RATE, _MUON_RATE = 0.01, 0.04
_MOST_THREADS = 4  # the matrices are too small to occupy more


class DemoModelError(SageError, RuntimeError):
    """Training ended below what is required; nothing was registered."""

    def __init__(self, accuracy: float) -> None:
        super().__init__(
            f"The demo model answers only {accuracy:.1%} of the held-out questions after all "
            f"{len(_ROUNDS)} rounds of training; {_LEAST:.0%} are required.",
            hint="Report this with the processor's name and torch's version, or use another "
            "model: `make demo MODEL=<hub id>`.",
        )
        self.accuracy = accuracy


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How the training went; accuracy is the share of held-out questions answered exactly."""

    accuracy: float
    steps: int
    parameters: int


def train_demo_model(folder: Path, progress: TrainingProgress) -> TrainingResult:
    """Train the demo model and write it, complete, into ``folder``.

    Seeded. Takes under a minute and a half on two cores.

    Raises:
        DemoModelError: the accuracy on the held-out questions is too low.
    """
    corpus = build_corpus()
    tokenizer = train_tokenizer(corpus.training)
    proper = exchange_rows(tokenizer, corpus.training)
    hurried = exchange_rows(tokenizer, corpus.training, casual)
    unseen = exchange_rows(tokenizer, corpus.held_out)
    with _torch_set_up():
        model = LlamaForCausalLM(_config(tokenizer.get_vocab_size()))
        accuracy, steps = _train_in_rounds(
            model, list(zip(proper, hurried, strict=True)), unseen, progress
        )
        if accuracy < _LEAST:
            raise DemoModelError(accuracy)
        _save(model, tokenizer, folder)
    progress.finish(f"{accuracy:.1%} of the held-out questions answered exactly")
    return TrainingResult(accuracy=accuracy, steps=steps, parameters=model.num_parameters())


@contextmanager
def _torch_set_up() -> Iterator[None]:
    """Seed torch and cap its threads, and leave both as they were: other code shares them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(_MOST_THREADS, threads))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            yield
    finally:
        torch.set_num_threads(threads)


def _config(vocab_size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )


def _train_in_rounds(
    model: Any, exchanges: list[tuple[Row, Row]], unseen: list[Row], progress: TrainingProgress
) -> tuple[float, int]:
    """Train until the target is met or the rounds are used up; return the accuracy and steps."""
    rng = random.Random(_SEED)
    accuracy, done, lesson = 0.0, 0, exchanges
    for steps in _ROUNDS:
        rate = _LATER_RATE if done else 1.0
        for step in _train(model, conversations(rng, lesson), steps, rate):
            progress.update(done + step, done + steps)
        done += steps
        accuracy = sum(_answered(model, unseen)) / len(unseen)
        if accuracy >= _TARGET:
            break
        known = _answered(model, [proper for proper, _ in exchanges])
        wrong = [pair for pair, right in zip(exchanges, known, strict=True) if not right]
        lesson = exchanges + wrong * _REPEATS
    return accuracy, done


def _train(model: Any, rows: Iterator[Row], steps: int, rate: float) -> Iterator[int]:
    """One round, from a short warm-up through a constant rate down to zero; yields each step."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    muon = Muon(matrices)
    for step in range(steps):
        factor = rate * min(1, (step + 1) / (0.05 * steps), (steps - step) / (0.6 * steps))
        tokens, labels = _tensors(list(islice(rows, _BATCH)))
        hidden = model.model(input_ids=tokens[:, :-1]).last_hidden_state
        answers = labels[:, 1:] != IGNORED
        # Scores over the vocabulary cost most, so only for the tokens that count.
        cross_entropy(model.lm_head(hidden[answers]), labels[:, 1:][answers]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.param_groups[0]["lr"] = _ADAM_RATE * factor
        adam.step()
        adam.zero_grad()
        muon.step(_MUON_RATE * factor)
        yield step + 1


def _answered(model: Any, rows: list[Row]) -> list[bool]:
    """Whether each row's answer is given exactly, by the weights as they will be after rounding.

    Where each token of the right answer is the likeliest after those before it, and only there,
    greedy decoding yields that answer: one forward pass tells.
    """
    right: list[bool] = []
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
        for start in range(0, len(rows), 256):
            tokens, labels = _tensors(rows[start : start + 256])
            likeliest = model(tokens[:, :-1]).logits.argmax(-1)
            fits = (likeliest == labels[:, 1:]) | (labels[:, 1:] == IGNORED)
            right += fits.all(dim=1).tolist()
    return right


def _tensors(rows: list[Row]) -> tuple[Any, Any]:
    """Tokens and labels, each of shape (rows, longest row), padded at the end."""
    length = max(len(row.tokens) for row in rows)
    gaps = [length - len(row.tokens) for row in rows]
    tokens = [row.tokens + [PAD_ID] * gap for row, gap in zip(rows, gaps, strict=True)]
    labels = [row.labels + [IGNORED] * gap for row, gap in zip(rows, gaps, strict=True)]
    return torch.tensor(tokens), torch.tensor(labels)


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    weights = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    del weights["lm_head.weight"]  # tied to the embeddings, which are stored
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.dtype = "bfloat16"
    model.config.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    # By vLLM's default, 1, so small a model would now and then make up an answer.
    _write_json(
        folder / "generation_config.json",
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
        temperature=0.0,
    )
    _write_json(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _write_json(path: Path, **content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
