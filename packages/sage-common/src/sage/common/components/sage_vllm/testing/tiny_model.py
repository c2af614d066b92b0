"""A random-weight Llama on disk: what tests and benchmarks load where real weights add nothing.

The folder is a complete Hugging Face style model that vLLM loads and serves. Two sizes are in use:

- the defaults, about 0.2 M parameters, for tests;
- ``hidden_size=512, layers=8, heads=8, vocab_size=8192``, about 28 M parameters (54 MB), for the
  throughput benchmark. Writing it takes about two seconds.

Only numpy and tokenizers are needed to write it, and both are imported when a model is written.
"""

from __future__ import annotations

import json
import math
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

BOS, EOS, TURN = "<|begin|>", "<|end|>", "<|turn|>"
SPECIAL_TOKENS = (BOS, EOS, TURN)  # their ids are 0, 1 and 2
SMALLEST_HEAD = 32  # vLLM's attention kernels take no smaller heads
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)  # every byte has a token, so any text round-trips

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def write_tiny_model(
    folder: Path,
    *,
    hidden_size: int = 64,
    layers: int = 2,
    heads: int = 4,
    vocab_size: int = 512,
    context: int = 512,
    seed: int = 0,
    chat_template: bool | str = True,
    extra_tokens: Sequence[str] = (),
    can_end: bool = False,
) -> Path:
    """Write the model into ``folder``, made where it is missing, and return ``folder``.

    The same arguments write the same bytes. Greedy decoding yields ASCII text that depends on the
    prompt and never ends by itself: every completion runs to ``max_tokens`` or a stop string.
    ``chat_template`` is the model's own, none, or another one. ``extra_tokens`` are marks that are
    tokens of their own, such as ``<think>``; the model does not say them by itself.
    ``can_end`` makes it as likely to end as to say anything else, so that a training can teach it.

    Raises:
        ValueError: ``hidden_size`` is no even multiple of ``heads``, or ``vocab_size`` is too
            small to hold every byte.
    """
    if hidden_size % (2 * heads):
        raise ValueError(
            f"hidden_size={hidden_size} is no even multiple of heads={heads}: rotary attention "
            f"needs one, for example {2 * heads * max(1, hidden_size // (2 * heads))}"
        )
    least = MIN_VOCAB_SIZE + len(extra_tokens)
    if vocab_size < least:
        raise ValueError(f"vocab_size={vocab_size} is below {least}, one token per byte")
    folder.mkdir(parents=True, exist_ok=True)
    config = text_config(hidden_size, layers, heads, vocab_size, context)
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer_config.json", tokenizer_config(context, chat_template))
    speakable = write_tokenizer(folder, vocab_size, seed, extra_tokens)
    if can_end:
        speakable.append(SPECIAL_TOKENS.index(EOS))
    write_weights(folder / "model.safetensors", text_shapes(config), speakable, seed)
    return folder


def text_config(
    hidden_size: int, layers: int, heads: int, vocab_size: int, context: int
) -> dict[str, Any]:
    """Return the config.json of a Llama."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": max(SMALLEST_HEAD, hidden_size // heads),
        "vocab_size": vocab_size,
        "max_position_embeddings": context,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,  # tied random embeddings mostly repeat the last token
        "bos_token_id": 0,
        "eos_token_id": 1,
        "dtype": "bfloat16",
    }


def tokenizer_config(context: int, chat_template: bool | str) -> dict[str, Any]:  # noqa: FBT001
    """Return the tokenizer_config.json."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    template = CHAT_TEMPLATE if chat_template is True else chat_template
    return config | ({"chat_template": template} if template else {})


def write_tokenizer(
    folder: Path, vocab_size: int, seed: int, extra_tokens: Sequence[str]
) -> list[int]:
    """Train a byte-level BPE tokenizer of at most ``vocab_size`` tokens.

    Returns the ids of those that are text by themselves.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(extra_tokens),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(vocab_size, seed), trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in extra_tokens])
    tokenizer.save(str(folder / "tokenizer.json"))
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    write_json(folder / "generation_config.json", ends)
    return _speakable(tokenizer.get_vocab(), extra_tokens)


def _sentences(vocab_size: int, seed: int) -> Iterator[str]:
    """Enough invented words for ``vocab_size`` merges, in sentences of ten."""
    rng = random.Random(seed)
    syllables = [c + v for c in "bcdfghklmnprstvw" for v in ("a", "e", "i", "o", "u", "an", "er")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(2 * vocab_size)]
    for _ in range(vocab_size // 2):
        yield " ".join(rng.choices(words, k=10)).capitalize() + "."


def _speakable(vocab: dict[str, int], extra_tokens: Sequence[str]) -> list[int]:
    """Ids of the tokens that are plain text by themselves: no control codes, no half characters.

    Byte-level BPE writes a leading space as "Ġ" and every byte outside printable ASCII as some
    other non-ASCII letter.
    """
    return sorted(
        i
        for token, i in vocab.items()
        if token not in {*SPECIAL_TOKENS, *extra_tokens} and token.lstrip("Ġ").isascii()
    )


def write_weights(
    path: Path, shapes: dict[str, tuple[int, ...]], speakable: list[int], seed: int
) -> None:
    """Write parameters of these shapes as bfloat16 in the safetensors format.

    The format (github.com/huggingface/safetensors, "Format"): the header's length as a
    little-endian 64-bit integer, a JSON header, then the tensors' bytes, all row-major.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs: list[bytes] = []
    offset = 0
    for name, shape in shapes.items():
        values = _initial(rng, name, shape, speakable)
        # The upper half of a float32 is the same number cut to bfloat16, which numpy lacks.
        blobs.append((values.view(np.uint32) >> 16).astype("<u2").tobytes())
        end = offset + len(blobs[-1])
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # aligns the tensors
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.writelines(blobs)


def _initial(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], speakable: list[int]
) -> NDArray[np.float32]:
    import numpy as np

    if name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    if len(shape) == 1 and name.endswith(".weight"):  # of a norm
        return np.ones(shape, np.float32)
    # Each product keeps the scale of what it is given, so that every layer, and through attention
    # the whole prompt, has its say in the next token; 0.02 throughout would drown it.
    scale = np.float32(math.prod(shape[1:]) ** 0.5)
    values = rng.standard_normal(shape, np.float32) / scale
    if name.endswith("embed_tokens.weight"):
        return values * scale
    if name.endswith("lm_head.weight"):
        silent = np.ones(shape[0], bool)
        silent[speakable] = False
        values[silent] = 0  # a logit of 0, which the largest of the others always exceeds
    return values


def text_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the parameters of ``LlamaForCausalLM``, in Hugging Face's names."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    attention = config["num_attention_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for part in "qkv":
            shapes[f"{prefix}.self_attn.{part}_proj.weight"] = (attention, hidden)
        shapes[f"{prefix}.self_attn.o_proj.weight"] = (hidden, attention)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = (inner, hidden)
        shapes[f"{prefix}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file as people do."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
