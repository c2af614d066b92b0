"""EchoEngine: an engine without weights, for tests, docs and examples of what surrounds it.

It is never used unless it is asked for by name::

    VLLMService({"model_id": "any/model"}, engine_factory=EchoEngine)

still takes the model from the registry, so ``write_echo_model`` makes one that it accepts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.engine_contract import (
    Completion,
    Embedding,
    EngineInfo,
    EngineSpec,
    EngineState,
    EngineStats,
    Generation,
    OnText,
    Prompt,
)
from sage.common.components.sage_vllm.errors import EngineClosedError, InvalidRequestError

_MAX_WORDS = 512
_DIMENSIONS = 8


class EchoEngine:
    """Answers each prompt with its own words, at once; a word is a token.

    The same prompt and options always give the same text. Prompts of more than 512 words are
    refused, as a model refuses what exceeds its context.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._ids = count()
        self._closed = False
        self._requests_done = self._prompt_tokens = self._completion_tokens = 0
        self._info = EngineInfo(
            model_id=spec.model_id,
            mode="inline",
            dtype="none",
            max_model_len=_MAX_WORDS,
            max_batch_size=64,
            start_seconds=0.0,
            chat_templates=("default",),
        )

    @property
    def info(self) -> EngineInfo:
        """What this engine says of itself."""
        return self._info

    @property
    def state(self) -> EngineState:
        """Ready until it is closed."""
        return "closed" if self._closed else "ready"

    def submit(
        self, prompt: Prompt, options: Mapping[str, Any], on_text: OnText | None = None
    ) -> Future[Generation]:
        """Complete with the prompt's words, up to ``max_tokens`` of them, ``n`` times."""
        words = self._words(_text_of(prompt))
        limit = options.get("max_tokens") or _MAX_WORDS
        said = words[:limit]
        completion = Completion(
            text=" ".join(said),
            finish_reason="stop" if len(said) == len(words) else "length",
            token_count=len(said),
        )
        if on_text is not None:
            for index, word in enumerate(said):
                on_text(f" {word}" if index else word)
        completions = [completion] * options.get("n", 1)
        self._count(len(words), len(said) * len(completions))
        return _done(
            Generation(
                request_id=f"r{next(self._ids)}",
                prompt_token_count=len(words),
                completions=completions,
                latency=0.0,
            )
        )

    def embed(
        self, text: str, *, normalize: bool, dimensions: int | None = None
    ) -> Future[Embedding]:
        """Return a vector of 8 floats, or of ``dimensions``, made from the text's hash."""
        words = self._words(text)
        digest = hashlib.sha256(text.encode()).digest()
        vector = [byte - 127.5 for byte in digest[: dimensions or _DIMENSIONS]]
        length = sum(x * x for x in vector) ** 0.5 if normalize else 1.0
        self._count(len(words), 0)
        return _done(Embedding(vector=[x / length for x in vector], token_count=len(words)))

    def stats(self) -> EngineStats:
        """Return the counters; nothing is ever in flight."""
        return EngineStats(
            requests_done=self._requests_done,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            steps=self._requests_done,
            sequence_steps=self._requests_done,
            max_batch_size=self._info.max_batch_size,
        )

    def count_tokens(self, prompt: Prompt) -> int:
        """Return the number of words."""
        return len(self._words(_text_of(prompt)))

    def close(self, *, drain: bool = False) -> None:  # noqa: ARG002 - nothing is ever in flight
        """Refuse further requests."""
        self._closed = True

    def _words(self, text: str) -> list[str]:
        if self._closed:
            raise EngineClosedError(self._info.model_id)
        words = text.split()
        if not 0 < len(words) <= _MAX_WORDS:
            raise InvalidRequestError(
                self._info.model_id, f"the prompt has {len(words)} words; 1 to {_MAX_WORDS} fit"
            )
        return words

    def _count(self, prompt_tokens: int, completion_tokens: int) -> None:
        self._requests_done += 1
        self._prompt_tokens += prompt_tokens
        self._completion_tokens += completion_tokens


def _text_of(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def write_echo_model(folder: Path) -> Path:
    """Write the least folder that the registry imports as a model, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["Echo"]}))
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


def _done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future
