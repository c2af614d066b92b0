"""prefix_of(): what of a prompt decides which replica it goes to."""

from __future__ import annotations

from sage.common.components.sage_vllm.engine_contract import Prompt
from sage.common.components.sage_vllm.requests.media.content_parts import content_text
from sage.common.components.sage_vllm.tokens import TokenIds

PREFIX_CHARACTERS = 512
"""How much of a prompt's beginning decides where it goes."""


def prefix_of(prompt: Prompt) -> str:
    """Return the beginning of a prompt, of a conversation that of its turns one after the other."""
    if isinstance(prompt, str):
        return prompt[:PREFIX_CHARACTERS]
    if isinstance(prompt, TokenIds):
        return " ".join(map(str, prompt[:PREFIX_CHARACTERS]))
    text = ""
    for message in prompt:
        text += f"{message['role']}\0{content_text(message.get('content'))}\0"
        if len(text) >= PREFIX_CHARACTERS:
            break
    return text[:PREFIX_CHARACTERS]
