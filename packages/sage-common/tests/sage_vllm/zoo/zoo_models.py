"""Small models of many architectures, with random weights, written by transformers itself."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY, HIDDEN, LAYERS, HEADS, INNER, CONTEXT = 512, 128, 2, 4, 256, 256
DENSE = 48  # dimensions behind a Dense module
BEGIN, END, UNKNOWN = "<|begin|>", "<|end|>", "<|unknown|>"
_FIRST_WORD = 3

_LLAMA_LIKE = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": INNER,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
}
_GPT2_LIKE = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT}
_BERT_LIKE = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": CONTEXT,
}
_EXPERTS = {"num_experts_per_tok": 2}
_WINDOW = {"sliding_window": 64}
_LATENT = {  # latent attention, with the only width of its cache that vLLM's kernels have
    **_LLAMA_LIKE,
    "num_key_value_heads": HEADS,
    "head_dim": 64,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
}
_DEEPSEEK = {
    **_LATENT,
    **_EXPERTS,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 128,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
_GEMMA = {**_LLAMA_LIKE, "tie_word_embeddings": True, "query_pre_attn_scalar": 32, **_WINDOW}


@dataclass(frozen=True)
class Species:
    """An architecture: transformers' configuration class for it, and what it is made with.

    ``refused`` is what the engine says of it, where it cannot run it on a CPU.
    """

    configuration: str
    options: dict[str, Any] = field(default_factory=dict)
    refused: str = ""

    def config(self) -> Any:
        """Return transformers' configuration."""
        of_all = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        return getattr(transformers, self.configuration)(**{**of_all, **self.options})


TEXT = {
    "Llama": Species("LlamaConfig", _LLAMA_LIKE),
    "Qwen2": Species("Qwen2Config", _LLAMA_LIKE),
    "Qwen3": Species("Qwen3Config", _LLAMA_LIKE),
    "Qwen2-MoE": Species(
        "Qwen2MoeConfig",
        {
            **_LLAMA_LIKE,
            **_EXPERTS,
            "num_experts": 4,
            "moe_intermediate_size": 128,
            "shared_expert_intermediate_size": 128,
        },
    ),
    "Qwen3-MoE": Species(
        "Qwen3MoeConfig",
        {**_LLAMA_LIKE, **_EXPERTS, "num_experts": 4, "moe_intermediate_size": 128},
    ),
    "Mistral": Species("MistralConfig", {**_LLAMA_LIKE, **_WINDOW}),
    "Mixtral": Species("MixtralConfig", {**_LLAMA_LIKE, **_EXPERTS, "num_local_experts": 4}),
    "Gemma": Species("GemmaConfig", {**_LLAMA_LIKE, "tie_word_embeddings": True}),
    "Gemma 2": Species("Gemma2Config", _GEMMA),
    "Gemma 3": Species("Gemma3TextConfig", _GEMMA),
    "Phi": Species("PhiConfig", {**_LLAMA_LIKE, "num_key_value_heads": HEADS}),
    "Phi-3": Species("Phi3Config", {**_LLAMA_LIKE, "sliding_window": None}),
    "GPT-2": Species("GPT2Config", _GPT2_LIKE),
    "GPT-J": Species("GPTJConfig", {**_GPT2_LIKE, "rotary_dim": 16}),
    "GPT-NeoX": Species("GPTNeoXConfig", _BERT_LIKE),
    "GPT-BigCode": Species("GPTBigCodeConfig", _GPT2_LIKE),
    "gpt-oss": Species(
        "GptOssConfig", {**_LLAMA_LIKE, **_EXPERTS, **_WINDOW, "num_local_experts": 4}
    ),
    "OPT": Species("OPTConfig", {**_BERT_LIKE, "ffn_dim": INNER, "word_embed_proj_dim": HIDDEN}),
    "BLOOM": Species(
        "BloomConfig",
        {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "seq_length": CONTEXT},
    ),
    "Falcon": Species("FalconConfig", _BERT_LIKE),
    "Granite": Species("GraniteConfig", _LLAMA_LIKE),
    "Granite-MoE": Species("GraniteMoeConfig", {**_LLAMA_LIKE, **_EXPERTS, "num_local_experts": 4}),
    "OLMo": Species("OlmoConfig", _LLAMA_LIKE),
    "OLMo 2": Species("Olmo2Config", _LLAMA_LIKE),
    "OLMo 3": Species("Olmo3Config", {**_LLAMA_LIKE, **_WINDOW}),
    "SmolLM3": Species("SmolLM3Config", _LLAMA_LIKE),
    "StableLM": Species("StableLmConfig", _LLAMA_LIKE),
    "StarCoder2": Species("Starcoder2Config", _LLAMA_LIKE),
    "Cohere": Species("CohereConfig", {**_LLAMA_LIKE, "tie_word_embeddings": True}),
    "Cohere 2": Species("Cohere2Config", {**_LLAMA_LIKE, "tie_word_embeddings": True, **_WINDOW}),
    "GLM-4": Species("Glm4Config", _LLAMA_LIKE),
    "Nemotron": Species("NemotronConfig", _LLAMA_LIKE),
    "ERNIE 4.5": Species("Ernie4_5Config", _LLAMA_LIKE),
    "Seed-OSS": Species("SeedOssConfig", _LLAMA_LIKE),
    "DeepSeek-V2": Species(
        "DeepseekV2Config",
        {**_DEEPSEEK, "q_lora_rank": None, "topk_method": "group_limited_greedy"},
    ),
    "DeepSeek-V3": Species(  # the last two are in the files of the real one, and not transformers'
        "DeepseekV3Config",
        {**_DEEPSEEK, "q_lora_rank": 64, "topk_method": "noaux_tc", "scoring_func": "sigmoid"},
    ),
    "GLM-4.7-Flash": Species(
        "Glm4MoeLiteConfig",
        {**_DEEPSEEK, "q_lora_rank": 64, "mlp_layer_types": ["dense", "sparse"]},
    ),
    "MiniCPM3": Species(
        "MiniCPM3Config", {**_LATENT, "q_lora_rank": 64, "kv_lora_rank": 32, "qk_rope_head_dim": 16}
    ),
    "LFM2": Species(  # from "block_dim" on it is in the files of the real one alone
        "Lfm2Config",
        {
            **_LLAMA_LIKE,
            "tie_word_embeddings": True,
            "layer_types": ["conv", "full_attention"],
            "conv_L_cache": 3,
            "block_multiple_of": 32,
            "block_auto_adjust_ff_dim": False,
            "block_dim": HIDDEN,
            "conv_dim": HIDDEN,
            "block_ff_dim": INNER,
        },
    ),
    "Mamba": Species(
        "MambaConfig",
        {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "state_size": 16},
        refused="selective_scan_fwd",
    ),
}

ENCODERS = {
    "BERT": Species("BertConfig", _BERT_LIKE),
    "RoBERTa": Species("RobertaConfig", {**_BERT_LIKE, "max_position_embeddings": CONTEXT + 2}),
    "XLM-R": Species("XLMRobertaConfig", {**_BERT_LIKE, "max_position_embeddings": CONTEXT + 2}),
    "ModernBERT": Species(
        "ModernBertConfig",
        {
            **_BERT_LIKE,
            "global_attn_every_n_layers": 2,
            "local_attention": 32,
            "cls_token_id": 0,
            "sep_token_id": 1,
        },
    ),
    "ELECTRA": Species("ElectraConfig", {**_BERT_LIKE, "embedding_size": HIDDEN}),
    "Qwen3 as embedder": Species("Qwen3Config", _LLAMA_LIKE),
    "Llama as embedder": Species("LlamaConfig", _LLAMA_LIKE),
    "Gemma 3 as embedder": Species(
        "Gemma3TextConfig", {**_GEMMA, "use_bidirectional_attention": True}
    ),
    "MPNet": Species(
        "MPNetConfig",
        {**_BERT_LIKE, "max_position_embeddings": CONTEXT + 2},
        refused="no code for MPNetModel",
    ),
    "DistilBERT": Species(
        "DistilBertConfig",
        {
            "dim": HIDDEN,
            "n_layers": LAYERS,
            "n_heads": HEADS,
            "hidden_dim": INNER,
            "max_position_embeddings": CONTEXT,
        },
        refused="attention",
    ),
    "ALBERT": Species("AlbertConfig", {**_BERT_LIKE, "embedding_size": 64}, refused="attention"),
    "Nomic": Species("NomicBertConfig", _BERT_LIKE, refused="NomicBertConfig"),
}


def words(count: int, seed: int) -> str:
    """Return a text of so many words, each of which is one token."""
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(_FIRST_WORD, VOCABULARY)}" for _ in range(count))


def variants(encoder: str) -> list[tuple[str, str | None, str | None]]:
    """Return the names of an encoder's folders, with the pooling and the Dense file of each."""
    if ENCODERS[encoder].refused:
        return [(encoder, None, None)]
    ways = [
        *((pooling, None) for pooling in (None, "cls", "mean", "last")),
        ("mean", "model.safetensors"),
        ("mean", "pytorch_model.bin"),
    ]
    return [
        (" ".join(filter(None, (encoder, pooling, dense))), pooling, dense)
        for pooling, dense in ways
    ]


PROMPTS = [words(count, seed=count) for count in (1, 3, 5, 8, 12, 20, 40, 90)]
NEW_TOKENS = 16


def write_model(folder: Path, species: Species, *, generates: bool) -> Any:
    """Write a model and its tokenizer into `folder`; return transformers' model of it."""
    import torch

    config = species.config()
    make = transformers.AutoModelForCausalLM if generates else transformers.AutoModel
    torch.manual_seed(0)
    model = make.from_config(config).float().eval()
    tied = generates and config.tie_word_embeddings
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or "norm" in name:
            continue
        scale = parameter.shape[-1] ** -0.5
        if "embed" in name or name.endswith(("wte.weight", "wpe.weight")):
            # Tied and as large as usual, each token would only be followed by itself.
            scale = 0.1 * scale if tied else 1.0
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of whole words, whose texts and tokens say the same."""
    special = {BEGIN: 0, END: 1, UNKNOWN: 2}
    vocabulary = special | {f"w{n}": n for n in range(_FIRST_WORD, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "TokenizersBackend",
            "bos_token": BEGIN,
            "eos_token": END,
            "unk_token": UNKNOWN,
            "pad_token": END,
            "model_max_length": CONTEXT,
        },
    )


def write_modules(
    folder: Path, pooling: str, *, dense: str | None = None, normalize: bool = True
) -> None:
    """Make a model one of sentence-transformers; ``dense`` names its file of weights."""
    package = "sentence_transformers.models"
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    _write(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": HIDDEN,
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
            "pooling_mode_max_tokens": pooling == "max",
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_lasttoken": pooling == "last",
        },
    )
    if dense:
        modules.append(("2_Dense", "Dense"))
        _write_dense(folder / "2_Dense", dense)
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    entries = [
        {"idx": n, "name": str(n), "path": path, "type": f"{package}.{kind}"}
        for n, (path, kind) in enumerate(modules)
    ]
    _write(folder / "modules.json", entries)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": CONTEXT})


def _write_dense(folder: Path, file: str) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(2)
    weights = {
        "linear.weight": torch.randn(DENSE, HIDDEN, generator=generator) * HIDDEN**-0.5,
        "linear.bias": torch.randn(DENSE, generator=generator) * 0.1,
    }
    _write(
        folder / "config.json",
        {
            "in_features": HIDDEN,
            "out_features": DENSE,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
    )
    if file.endswith(".safetensors"):
        save_file(weights, folder / file)
    else:
        torch.save(weights, folder / file)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
