"""The base model's tokenizer and chat template, read from its folder without transformers.

transformers imports torch, which takes seconds and hundreds of megabytes; the checks of a dataset
need neither. The training process compares with transformers before it trains, and the
verification with vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.fine_tuning import FineTuneRequestError
from sage.tuning.data.chat_template import ChatTemplate

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
_NO_LIMIT = 10**9  # what transformers writes for "none" is far above


@dataclass(frozen=True)
class BaseTokenizer:
    """The tokenizer in a model's folder."""

    model_id: str
    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / "tokenizer.json").is_file():
            raise FineTuneRequestError(
                self.model_id,
                f"{self.model_id!r} has no tokenizer.json, so it cannot be fine-tuned",
                "base_model",
                hint="Use a model whose tokenizer is saved in that format.",
            )

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer  # not needed where a request is refused before

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def _config(self) -> dict[str, Any]:
        return read_object(self.folder / "tokenizer_config.json")

    @cached_property
    def named_tokens(self) -> dict[str, str]:
        """The special tokens by their names, such as ``eos_token``, as chat templates use them."""
        found = {**read_object(self.folder / "special_tokens_map.json"), **self._config}
        named = {name: found.get(name) for name in _NAMED_TOKENS}
        texts = {
            name: token.get("content") if isinstance(token, dict) else token
            for name, token in named.items()
        }
        return {name: text for name, text in texts.items() if isinstance(text, str)}

    @cached_property
    def special_tokens(self) -> frozenset[str]:
        """The texts that become one token with a meaning of its own, wherever they stand."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        special = {token.content for token in added if token.special}
        return frozenset(special | set(self.named_tokens.values()))

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that vLLM ends an answer at; the first is the one to write.

        The tokenizer's ``eos_token``, and ``eos_token_id`` of generation_config.json, or where
        there is none, of config.json.
        """
        generation = self.folder / "generation_config.json"
        config = generation if generation.is_file() else self.folder / "config.json"
        found = read_object(config).get("eos_token_id")
        ids = [found] if isinstance(found, int) else list(found or ())
        eos = self.named_tokens.get("eos_token")
        own = self._tokenizer.token_to_id(eos) if eos is not None else None
        return tuple(dict.fromkeys([*([] if own is None else [own]), *ids]))

    @cached_property
    def unknown_id(self) -> int | None:
        """The token of what the tokenizer cannot express; None where it expresses everything."""
        unknown = self.named_tokens.get("unk_token")
        found: int | None = None if unknown is None else self._tokenizer.token_to_id(unknown)
        return found

    @cached_property
    def pad_id(self) -> int:
        """A token to fill rows with; what it is does not matter, as it is never attended to."""
        pad = self.named_tokens.get("pad_token")
        found = self._tokenizer.token_to_id(pad) if pad is not None else None
        return int(found if found is not None else next(iter(self.stop_ids), 0))

    @cached_property
    def context(self) -> int:
        """How many tokens the model reads at most."""
        config = read_object(self.folder / "config.json")
        language = {**config, **(config.get("text_config") or {})}
        limits = [language.get("max_position_embeddings"), self._config.get("model_max_length")]
        return min(int(limit) for limit in [*limits, _NO_LIMIT] if limit)

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The template that makes a text of a conversation; None if the model has none."""
        file = self.folder / "chat_template.jinja"
        source: Any = self._config.get("chat_template")
        if file.is_file():
            source = file.read_text(encoding="utf-8")
        if isinstance(source, list):
            named = {entry.get("name"): entry.get("template") for entry in source}
            source = named.get("default")
        if not isinstance(source, str):
            return None
        return ChatTemplate(source, self.named_tokens)

    def encode(self, texts: Sequence[str], *, as_prompt: bool = False) -> list[list[int]]:
        """Return the tokens of texts; ``as_prompt`` adds those that a plain prompt begins with."""
        adds = as_prompt and not self._adds_by_config
        ids = [self._tokenizer.encode(text, add_special_tokens=adds).ids for text in texts]
        if as_prompt and self._adds_by_config:
            begin, end = (self._added_id(name) for name in ("bos", "eos"))
            ids = [[*begin, *own, *end] for own in ids]
        return ids

    @cached_property
    def _adds_by_config(self) -> bool:
        """Whether tokenizer_config.json says what a prompt begins and ends with: it is obeyed."""
        return "add_bos_token" in self._config or "add_eos_token" in self._config

    def _added_id(self, name: str) -> list[int]:
        token = self.named_tokens.get(f"{name}_token")
        if not self._config.get(f"add_{name}_token") or token is None:
            return []
        return [self._tokenizer.token_to_id(token)]

    def answer_text(self, ids: Sequence[int]) -> str:
        """Return the text of an answer as vLLM returns it: without special tokens."""
        kept = list(ids[:-1] if ids and ids[-1] in self.stop_ids else ids)
        text: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        return text

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones too."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text


def read_object(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds; an empty one where there is no such file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return content if isinstance(content, dict) else {}
