"""Small models with heads, with random weights, written by transformers itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

HIDDEN, CONTEXT = 64, 128
WORDS = [f"{a}{b}{c}" for a in "bdfklm" for b in "aeiou" for c in "nrst"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "yes", "no", "query", "document", ":", "."]
MOODS = {0: "negative", 1: "neutral", 2: "positive"}
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} . {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
PAIR_TEMPLATE = (
    "query : {{ messages[0]['content'] }} . document : {{ messages[1]['content'] }} . yes no :"
)
_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 2 * HIDDEN}
_DECODER = {
    **_LAYERS,
    "hidden_size": HIDDEN,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
}


def sentences(count: int, seed: int = 0, most: int = 20) -> list[str]:
    """Return sentences of up to so many words, which are a token each."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(2, most))) for _ in range(count)]


def _write_tokenizer(folder: Path, *, pairs: bool) -> int:
    """Write a tokenizer of whole words; with ``pairs`` as BERT's. Return its number of tokens."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["input_ids", "token_type_ids", "attention_mask"]
    if pairs:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=names,  # decoders' tokenizers tell pairs apart too: models must not
        model_max_length=CONTEXT,
        chat_template=None if pairs else CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return len(vocabulary)


def _write(folder: Path, make: Callable[..., Any], config: Any, **options: Any) -> Path:
    torch.manual_seed(7)
    model = make(config(**options, initializer_range=0.5)).eval()
    model.save_pretrained(folder)
    return folder


def write_bert(folder: Path, classes: int) -> Path:
    """Write a BertForSequenceClassification."""
    size = _write_tokenizer(folder, pairs=True)
    names = {0: "relevance"} if classes == 1 else MOODS
    return _write(
        folder,
        transformers.BertForSequenceClassification,
        transformers.BertConfig,
        **_LAYERS,
        hidden_size=HIDDEN,
        vocab_size=size,
        max_position_embeddings=CONTEXT,
        id2label=names,
        label2id={name: index for index, name in names.items()},
    )


def write_decoder(folder: Path, kind: str, *, head: bool) -> Path:
    """Write a Qwen3 or Llama, by itself or with a head for one number."""
    size = _write_tokenizer(folder, pairs=False)
    suffix = "ForSequenceClassification" if head else "ForCausalLM"
    labels = {"num_labels": 1} if head else {}
    return _write(
        folder,
        getattr(transformers, f"{kind}{suffix}"),
        getattr(transformers, f"{kind}Config"),
        **_DECODER,
        **labels,
        vocab_size=size,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )


def write_qwen2_reward(folder: Path) -> Path:
    """Write a Qwen2ForRewardModel, whose head of two layers transformers does not have."""
    write_decoder(folder, "Qwen2", head=False)
    model = transformers.Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    weights = {f"model.{name}": value for name, value in model.model.state_dict().items()}
    torch.manual_seed(8)
    for name, shape in (("0", (HIDDEN, HIDDEN)), ("2", (1, HIDDEN))):
        weights[f"score.{name}.weight"] = torch.randn(shape) / 8
        weights[f"score.{name}.bias"] = torch.randn(shape[0]) / 8
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = transformers.Qwen2Config.from_pretrained(folder)
    config.architectures = ["Qwen2ForRewardModel"]
    config.save_pretrained(folder)
    return folder


def numbers_of(folder: Path, kind: str, encoded: Sequence[dict[str, Any]]) -> torch.Tensor:
    """Return what transformers' class of this name says of each input, as float32 logits."""
    model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return torch.stack([model(**each).logits[0] for each in encoded])
