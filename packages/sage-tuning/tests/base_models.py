"""Base models by their chat templates: the ways in which real ones write a conversation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sage.common.components.sage_vllm.testing.tiny_model import (
    SPECIAL_TOKENS,
    text_config,
    text_shapes,
    write_json,
    write_tiny_model,
    write_weights,
)
from sage.tools.demo_model.tokens import CHAT_TEMPLATE as DEMO


@dataclass(frozen=True)
class Template:
    """A chat template, the tokens that it writes, and by which of them an answer ends."""

    source: str
    tokens: tuple[str, ...]
    stop: str
    bos: str | None = None
    eos: str | None = None
    """The tokenizer's own; the stop where it is None."""


_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim }}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% if loop.index0 % 2 %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
_GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_THINKING = (  # of earlier answers it shows no thoughts, as Qwen3 does
    "{% set last = namespace(user=0) %}{% for message in messages %}"
    "{% if message.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and loop.index0 < last.user and '</think>' in "
    "message.content %}{{ message.content.split('</think>')[-1] | trim }}"
    "{% else %}{{ message.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MARKED = (  # by a tag that templates use for training
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}"
    "{% endgeneration %}{% else %}{{ message.content + '<|im_end|>' }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_OPENED = (  # the prompt opens a thought that the whole conversation does not show
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + "
    "'<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
_ENDLESS = (
    "{% for message in messages %}### {{ message.role }}:\n{{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
SPOKEN = 512
_IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")

TEMPLATES = {
    "chatml": Template(_CHATML, _IM, "<|im_end|>"),
    "llama3": Template(
        _LLAMA3,
        ("<|begin|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        bos="<|begin|>",
        eos="<|end_of_text|>",
    ),
    "mistral": Template(_MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", bos="<s>"),
    "gemma": Template(
        _GEMMA,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        bos="<bos>",
        eos="<eos>",
    ),
    "thinking": Template(_THINKING, _IM, "<|im_end|>"),
    "marked": Template(_MARKED, _IM, "<|im_end|>"),
    "opened": Template(_OPENED, _IM, "<|im_end|>"),
    "demo": Template(DEMO, ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"), "<|end|>"),
    "endless": Template(_ENDLESS, ("<|endoftext|>",), "<|endoftext|>"),
}


def write_base(folder: Path, name: str) -> Path:
    """Write a model of random weights with one of the templates, and the tokens it needs."""
    template = TEMPLATES[name]
    write_tiny_model(folder, vocab_size=SPOKEN, chat_template=False)
    model = text_config(64, 2, 4, SPOKEN + 8, 512)  # with a row for each of the template's tokens
    write_json(folder / "config.json", model)
    speakable = list(range(len(SPECIAL_TOKENS), SPOKEN))
    write_weights(folder / "model.safetensors", text_shapes(model), speakable, seed=0)
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in template.tokens])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {
        "chat_template": template.source,
        "eos_token": template.eos or template.stop,
        "pad_token": template.eos or template.stop,
        "bos_token": template.bos,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    stop = tokenizer.token_to_id(template.stop)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [stop]}))
    return folder
