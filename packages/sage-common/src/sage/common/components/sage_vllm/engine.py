"""Engine: the narrow seam between the service and whatever generates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Message = Mapping[str, Any]
"""One turn of a conversation: ``{"role": ..., "content": ...}``."""

Prompt = str | Sequence[Message]
"""A text, or a conversation that goes through the model's chat template."""

EngineMode = Literal["auto", "inline", "process"]


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What an engine is built from.

    ``path`` is the model's folder, ``arguments`` are the engine's own (vLLM's EngineArgs). An
    engine generates or embeds, never both.
    """

    model_id: str
    path: Path
    role: Literal["generate", "embed"] = "generate"
    mode: EngineMode = "auto"
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What a running engine says of itself; lengths are in tokens, ``start_seconds`` in seconds."""

    model_id: str
    mode: Literal["inline", "process"]
    dtype: str
    max_model_len: int
    max_batch_size: int
    start_seconds: float


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One generated text; ``finish_reason`` is ``"stop"`` or ``"length"``."""

    text: str
    finish_reason: str
    token_count: int


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The result of one request; ``latency`` is seconds from submission to the last token."""

    request_id: str
    prompt_token_count: int
    completions: Sequence[Completion]
    latency: float


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """The vector of one text, as the model's pooler gives it."""

    vector: Sequence[float]
    token_count: int


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """Counters since the engine was built; ``busy_seconds`` is the time spent in steps."""

    in_flight: int = 0
    requests_done: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    sequence_steps: int = 0
    busy_seconds: float = 0.0
    max_batch_size: int = 1

    @property
    def mean_batch_size(self) -> float:
        """Requests per step, at most ``max_batch_size`` of which one step can work on."""
        return self.sequence_steps / self.steps if self.steps else 0.0

    @property
    def batch_occupancy(self) -> float:
        """``mean_batch_size`` as a share of ``max_batch_size``, 0 to 1."""
        return self.mean_batch_size / self.max_batch_size

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens per second of the time spent in steps."""
        return self.completion_tokens / self.busy_seconds if self.busy_seconds else 0.0


class Engine(Protocol):
    """A running engine. Thread-safe; its constructor returns when it is ready."""

    @property
    def info(self) -> EngineInfo:
        """What was built."""
        ...

    def submit(self, prompt: Prompt, options: Mapping[str, Any]) -> Future[Generation]:
        """Start a generation. Cancelling the Future aborts it and frees what it holds.

        ``options`` are sampling parameters by vLLM's names. What is wrong with prompt or options
        is the Future's InvalidRequestError or raised at once; EngineClosedError and
        EngineDeadError likewise.
        """
        ...

    def embed(self, text: str, *, normalize: bool) -> Future[Embedding]:
        """Start an embedding; Future and errors as of ``submit``."""
        ...

    def stats(self) -> EngineStats:
        """Return the counters as of the last step."""
        ...

    def close(self) -> None:
        """Fail what is in flight with EngineClosedError and free everything. Idempotent."""
        ...


class EngineFactory(Protocol):
    """Makes engines: ``VLLMEngine`` is one, ``testing.EchoEngine`` another."""

    def __call__(self, spec: EngineSpec) -> Engine:
        """Build an engine and return when it is ready; raises EngineError."""
        ...
