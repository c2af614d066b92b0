"""A random-weight Idefics3 on disk: a model that sees, for tests of pictures in prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage.common.components.sage_vllm.testing.tiny_model import (
    SMALLEST_HEAD,
    text_config,
    text_shapes,
    tokenizer_config,
    write_json,
    write_tokenizer,
    write_weights,
)

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = "<image>"
_OTHERS = (IMAGE, "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
_PATCH, _SCALE = 14, 2  # pixels a side; patches a side that become a token
_VOCAB = 512


def write_tiny_vision_model(
    folder: Path,
    *,
    hidden_size: int = 64,
    layers: int = 2,
    side: int = 56,
    context: int = 512,
    seed: int = 0,
) -> Path:
    """Write an Idefics3, whose part that speaks is a Llama, into ``folder``, and return it.

    It has 0.4 M parameters by default, half of them in the part that sees, which makes 4 tokens of
    a picture; ``hidden_size=512, layers=12, side=224`` has 71 M and makes 64. What it says depends
    on the pictures and means nothing. The same arguments write the same bytes. vLLM loads it
    without torchvision, and Pillow prepares its pictures: few models of its kind need no more.

    Args:
        folder: made where it is missing.
        hidden_size: of both parts, a multiple of 64.
        layers: of each part.
        side: pixels that a picture is scaled to, a multiple of 28.
        context: tokens.
        seed: of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    heads = hidden_size // SMALLEST_HEAD
    text = text_config(hidden_size, layers, 2 * heads, _VOCAB, context)
    vision: dict[str, Any] = {
        "model_type": "idefics3_vision",
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": side,
        "patch_size": _PATCH,
    }
    write_json(
        folder / "config.json",
        {
            "architectures": ["Idefics3ForConditionalGeneration"],
            "model_type": "idefics3",
            "text_config": text,
            "vision_config": vision,
            "image_token_id": _VOCAB - len(_OTHERS),  # the first of the others, which come last
            "scale_factor": _SCALE,
            "pad_token_id": 1,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        },
    )
    write_json(folder / "preprocessor_config.json", _preprocessor_config(side))
    tokens = (side // _PATCH // _SCALE) ** 2
    processor = {"processor_class": "Idefics3Processor", "image_seq_len": tokens}
    write_json(folder / "processor_config.json", processor)
    write_json(folder / "tokenizer_config.json", tokenizer_config(context, chat_template=True))
    speakable = write_tokenizer(folder, _VOCAB, seed, _OTHERS)
    shapes = {
        name.replace("model.", "model.text_model.", 1): shape
        for name, shape in text_shapes(text).items()
    }
    shapes["model.connector.modality_projection.proj.weight"] = (
        hidden_size,
        hidden_size * _SCALE**2,
    )
    shapes |= _vision_shapes(vision)
    write_weights(folder / "model.safetensors", shapes, speakable, seed)
    return folder


def _preprocessor_config(side: int) -> dict[str, Any]:
    return {
        "image_processor_type": "Idefics3ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"longest_edge": side},
        "do_image_splitting": False,
        "max_image_size": {"longest_edge": side},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
        "do_pad": True,
    }


def _vision_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the parameters of ``Idefics3VisionTransformer``, in Hugging Face's names."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    root = "model.vision_model"
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}.embeddings.patch_embedding.weight": (hidden, 3, _PATCH, _PATCH),
        f"{root}.embeddings.patch_embedding.bias": (hidden,),
        f"{root}.embeddings.position_embedding.weight": (
            (config["image_size"] // _PATCH) ** 2,
            hidden,
        ),
    }
    products, norms = {}, [f"{root}.post_layernorm"]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"{root}.encoder.layers.{layer}"
        norms += [f"{prefix}.layer_norm1", f"{prefix}.layer_norm2"]
        for part in ("q", "k", "v", "out"):
            products[f"{prefix}.self_attn.{part}_proj"] = (hidden, hidden)
        products[f"{prefix}.mlp.fc1"] = (inner, hidden)
        products[f"{prefix}.mlp.fc2"] = (hidden, inner)
    for name, shape in products.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]
    for name in norms:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (hidden,)
    return shapes
